"""Which sample each row of a gradient belongs to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["MIXED", "Order", "find_owners", "owners", "probe"]

#: Rows of a sample next to each other, or the first rows of all samples, then the second ones.
Order = Literal["blocks", "turns"]

MIXED = "Parameter `losses` should be of samples that do not see each other. Found"

#: Rounding of a row, relative to its norm.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_LOW_PRECISION = 5e-2
#: A row counts as that part of the largest at least: what is left of terms that cancel is rounding.
_LEAST = 1e-3


def probe(count: int, like: Tensor) -> Tensor:
    """``(B,)`` factors between 0.5 and 1.5, all different, in no order."""
    places = torch.arange(count, dtype=torch.float64)
    values = 0.5 + (places * 0.6180339887498949 + 0.25) % 1.0
    return values.to(like)


def owners(order: Order, rows: int, count: int, device: torch.device) -> Tensor:
    """``(rows,)`` int64, the sample of each row."""
    places = torch.arange(rows, device=device)
    return places // (rows // count) if order == "blocks" else places % count


def find_owners(one: Tensor, other: Tensor, factors: Tensor) -> tuple[Order | None, Tensor]:
    """The order of the rows, ``None`` for another one, and the sample of each row.

    A row of sample b in a backward of ``Σ_b c_b L_b`` is that of a backward of the sum, times c_b. A row of zeros is
    nobody's, and one that is not finite that of whom the others tell.

    Args:
        one: ``(rows, columns)``, of the sum.
        other: The same, of the weighted sum.
        factors: ``(B,)``, its weights.

    Raises:
        ValueError: If a row depends on several samples, or is not finite where the others are in no order.
    """
    count, rows = len(factors), len(one)
    limit = _TOLERANCE.get(one.dtype, _LOW_PRECISION)
    finite = (one.isfinite() & other.isfinite()).all(dim=1, keepdim=True)
    one, other = (torch.where(finite, rows, 0).double() for rows in (one, other))
    factors = factors.double()
    size = torch.linalg.vector_norm(one, dim=1)
    sizes = size + _LEAST * (size.amax() if rows else 0.0)

    def fits(found: Tensor) -> bool:
        gap = torch.linalg.vector_norm(other - factors[found].unsqueeze(1) * one, dim=1)
        return bool((gap <= limit * sizes).all())

    if rows % count == 0:
        for order in ("blocks", "turns"):
            found = owners(order, rows, count, one.device)
            if fits(found):
                return order, found
    if not bool(finite.all()):
        raise ValueError(
            f"{MIXED} gradients that are not finite, in rows of which nobody knows whose they are."
        )
    ratio = (other * one).sum(dim=1) / size.square().clamp(min=1e-300)
    by_size, places = factors.sort()
    above = torch.searchsorted(by_size, ratio).clamp(1, count - 1)
    nearer = ratio - by_size[above - 1] < by_size[above] - ratio
    found = places[torch.where(nearer, above - 1, above)]
    if not fits(found):
        raise ValueError(
            f"{MIXED} some that do, or a hook that changes gradients: a row that depends on several losses."
        )
    return None, found

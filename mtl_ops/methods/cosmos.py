"""COSMOS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._base import LossMethod, check_losses
from ._checks import non_negative
from ._preference import Preference
from ._registry import register

__all__ = ["COSMOS"]


@register("cosmos")
class COSMOS(LossMethod):
    """Conditioned one-shot multi-objective search: keeps the losses near a preferred direction.

    With preferences r it minimises ``r·L - λ cos(r, L)``:

        ``w = r - λ (r / (|r| |L|) - cos(r, L) L / |L|²)``.

    The whole method also feeds r to the model, and draws another r for each batch from a Dirichlet
    distribution, so that one model learns the whole Pareto front: hand r in with each call as
    ``preference``.

    Guarantee: with ``λ = 0``, ``w = r``.

    Args:
        preference: r, T numbers of at least 0.
        lam: λ; the paper has 0.01 to 8, by data set.

    Weights can be negative: of tasks whose loss should grow to come nearer to the direction.

    Degenerate cases: a task whose loss is not finite has the weight 0, and r and L are then those
    of the others. Where all losses are 0 there is no angle: all weights become NaN.

    Raises:
        ValueError: If a parameter is out of range, or has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Michael Ruchte, Josif Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective
    Learning", ICDM 2021.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.COSMOS(preference=[0.5, 0.5], lam=1.0)
        >>> method.weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.3658, 0.5447], dtype=torch.float64)
    """

    def __init__(self, *, preference: Sequence[float] | Tensor, lam: float) -> None:
        self.preference = Preference(preference, "some")
        self.lam = non_negative("lam", lam)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None, **given: Any) -> Tensor:
        """``(T,)`` float64; ``preference`` ``(T,)`` takes the place of the constructor's."""
        values = check_losses(losses, self.name)
        part = values.isfinite()
        preference = self.preference.of(given, len(values), values.device)
        assert preference is not None
        r = torch.where(part, preference, 0.0)
        kept = torch.where(part, values, 0.0)
        length = kept.norm()
        wanted, found = r / r.norm(), kept / length
        away: Tensor = (wanted - wanted.dot(found) * found) / length
        return r - self.lam * away

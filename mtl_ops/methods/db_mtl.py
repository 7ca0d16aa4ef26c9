"""DB-MTL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._base import check_losses
from ._checks import non_negative, only, share
from ._registry import register
from ._tracking import MovingAverage

__all__ = ["DBMTL"]

_EPSILON = 1e-8  # of the paper's code, in the logarithm


@register("db_mtl")
class DBMTL(MovingAverage):
    """Dual-balancing: logarithms of the losses, and gradients of equal length.

    The gradient of ``log(L_i + 1e-8)`` is ``g_i / (L_i + 1e-8)``. In step k, moving averages B of
    these are stretched to the length of the longest one:

        ``B_i <- β_k B_i + (1 - β_k) g_i / (L_i + 1e-8)``,  ``β_k = β / k^σ``,
        ``d = Σ_i (max_j |B_j|) / |B_i| · B_i``.

    **Memory of J's size:** B, T gradients of the shared parameters. In a single process only. Besides
    it, k. With ``beta=0`` there is none: then ``w_i = max_j(n_j / L_j) / n_i`` with n the norms.

    A parameter that one task alone reaches gets the gradient of that task's ``log(L_i + 1e-8)``, too,
    as in the paper's algorithm: ``g_i / (L_i + 1e-8)``.

    Guarantees: all weighted averages have the same length, and no weight but that length depends on
    the scale of any single loss.

    Args:
        beta: β, in [0, 1); LibMTL has 0.9.
        beta_sigma: σ.

    B starts at 0, so the first merged gradients are shorter, by ``1 - β``. ``report.gram`` and
    ``report.norms`` are of the gradients themselves, ``report.weights`` are factors of B. The clip
    of each task's gradient and its weight act on the gradient before it enters B, and so have no
    effect but on the common length.

    Degenerate cases: where B is zero the weight is 0 (others divide by ``|B| + 1e-8``, which makes
    averages shorter than that vanish). A task that takes no part in a step has the weight 0, and its
    B stays. A loss below ``-1e-8`` has no logarithm: the answer is NaN, and everything stays; so it
    is if a gradient that takes part is not finite.

    Raises:
        ValueError: If a parameter is out of range, or tasks or parameters change.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Baijiong Lin, Weisen Jiang, Feiyang Ye, Yu Zhang, Pengguang Chen, Ying-Cong Chen, Shu Liu, James
    T. Kwok, "Dual-Balancing for Multi-Task Learning", arXiv 2308.12029, 2023.

    Example:
        >>> import torch, mtl_ops
        >>> gradients, losses = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 1.0])
        >>> mtl_ops.merge(gradients, mtl_ops.methods.DBMTL(beta=0.0), losses=losses)
        tensor([2., 2.])
        >>> mtl_ops.merge(gradients, "db_mtl", losses=losses)
        tensor([0.2000, 0.2000])
    """

    uses_losses = True

    def __init__(self, *, beta: float = 0.9, beta_sigma: float = 0.0) -> None:
        super().__init__()
        self.beta = share("beta", beta)
        self.beta_sigma = non_negative("beta_sigma", beta_sigma)

    @property
    def tracks(self) -> bool:  # type: ignore[override]
        """Whether there are averages."""
        return self.beta > 0.0

    def track(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        losses: Tensor | None,
        places: Sequence[int],
        segments: Sequence[int],
    ) -> list[Tensor | None]:
        part = factors != 0
        inverse = self._inverse(losses, part)
        usable = torch.where(part, inverse, 0.0).isfinite().all()
        scaled = torch.where(part & usable, factors * inverse, 0.0)
        rate = 1.0 - self.beta / self.count(scaled) ** self.beta_sigma
        return self.average(rows, scaled, rate, places)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        """The weights of the averages whose Gram matrix is given; without any, of the gradients."""
        only(given)
        scale = torch.ones_like(gram[..., 0]) if scale is None else scale
        present = scale != 0
        part = present.any(dim=0)
        squares = torch.where(present, scale.square() * gram.diagonal(dim1=1, dim2=2), 0.0)
        norms = squares.sum(dim=0).sqrt()
        inverse = self._inverse(losses, part)
        relative = norms * (0.0 * inverse + 1.0 if self.tracks else inverse)
        longest = torch.where(part, relative, 0.0).max()
        weights = torch.where(norms == 0, 0.0 * longest, longest / norms)
        return torch.where(present, scale * weights, 0.0)

    def scale_heads(self, scale: Tensor, losses: Tensor | None) -> Tensor:
        """With the derivative of the logarithm."""
        part = (scale != 0).any(dim=0)
        return torch.where(scale != 0, scale * self._inverse(losses, part), 0.0)

    def _inverse(self, losses: Tensor | None, part: Tensor) -> Tensor:
        """``1 / (L + 1e-8)``; NaN where there is no logarithm."""
        over = check_losses(losses, self.name).to(part.device) + _EPSILON
        return torch.where(over > 0, 1.0 / over, torch.nan)

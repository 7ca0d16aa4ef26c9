"""MGDA."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ._base import NativeMethod, check_losses
from ._checks import integer, one_of, only, positive
from ._registry import register

__all__ = ["MGDA"]


@register("mgda")
class MGDA(NativeMethod):
    """Multiple-gradient descent: the shortest vector in the convex hull of the gradients.

        ``d = Jᵀw``, with ``|Jᵀw|`` least among all ``w ≥ 0``, ``Σw = 1``.

    It is the common descent direction, the same first-order gain for all tasks that count, or 0 if
    no direction is good for all of them.

    Guarantees: ``⟨g_i, d⟩ ≥ |d|²`` for every task, up to rounding (1e-15 of ``|g_i| Σ w_k|g_k|``),
    and no other method has a longer least step per length. Multiplying all gradients by a number
    multiplies d by it. (Other implementations answer ``T·w``: nash-mtl.)

    Args:
        solver: ``"exact"``, a finite active-set method; or ``"frank_wolfe"``, as in TorchJD, the
            code of the paper and LibMTL, which leaves d wrong by about 1% on ordinary gradients, and
            by orders of magnitude on conflicting ones or ones of different length.
        normalise: What each gradient is divided by before: ``"none"``; ``"l2"``, its length;
            ``"loss"``, the task's loss; or ``"loss+"``, both. The weights are those of the original
            gradients, so then ``Σw`` is not 1.
        epsilon: Frank-Wolfe stops after a step shorter than this.
        max_iters: And after this many steps.

    Degenerate cases: a zero gradient is the shortest vector, so it gets all the weight and d is 0
    (a task that takes no part does not count). If 0 is in the convex hull, d is 0 but for rounding.
    Of equal gradients, the share of each is arbitrary. ``"loss"`` and ``"loss+"``: a loss that is
    not positive makes the answer NaN. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is of the wrong type, or there are no losses to divide by.

    Jean-Antoine Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", C. R. Acad. Sci. Paris, Ser. I 350, 2012. Ozan Sener, Vladlen Koltun, "Multi-Task
    Learning as Multi-Objective Optimization", NeurIPS 2018.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "mgda")
        tensor([0.4000, 0.8000])
    """

    segmentwise = True

    def __init__(
        self,
        *,
        solver: Literal["exact", "frank_wolfe"] = "exact",
        normalise: Literal["none", "l2", "loss", "loss+"] = "none",
        epsilon: float = 1e-3,
        max_iters: int = 100,
    ) -> None:
        self.solver = one_of("solver", solver, ("exact", "frank_wolfe"))
        self.normalise = one_of("normalise", normalise, ("none", "l2", "loss", "loss+"))
        self.epsilon = positive("epsilon", epsilon)
        self.max_iters = integer("max_iters", max_iters, 1)

    @property
    def uses_losses(self) -> bool:  # type: ignore[override]
        """Only to divide by them."""
        return self.normalise in ("loss", "loss+")

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        if self.normalise != "none":
            scale = self._normalised(gram, scale, losses)
        if self.solver == "exact":
            return ops.solve_mgda(gram, scale)
        return ops.solve_mgda_frank_wolfe(
            gram, scale, epsilon=self.epsilon, max_iters=self.max_iters
        )

    def _normalised(self, gram: Tensor, scale: Tensor | None, losses: Tensor | None) -> Tensor:
        """The scales, each divided by what its task's gradient is to be divided by."""
        if scale is None:
            scale = torch.ones_like(gram[..., 0])
        factors = scale
        if self.normalise in ("l2", "loss+"):
            lengths = gram.diagonal(dim1=1, dim2=2).sqrt() * scale.abs()
            # A zero gradient stays; one that is not finite must not become a task left out.
            inverse = torch.where(lengths.isfinite(), lengths.reciprocal(), torch.nan)
            factors = torch.where(lengths == 0, factors, factors * inverse)
        if self.uses_losses:
            values = check_losses(losses, self.name)
            factors = factors * torch.where(values > 0, values.reciprocal(), torch.nan)
        return torch.where(scale == 0, scale, factors)

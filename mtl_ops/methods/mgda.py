"""MGDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ._base import NativeMethod, check_losses
from ._checks import PerTask, integer, non_negative, one_of, only, positive
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
        min_weights: c, a number of at least 0 for all tasks or one for each, of a sum of at most 1: the
            vector is the shortest of those with ``w ≥ c`` and ``Σw = 1``, and no task is given up
            (PE-LTR). With ``normalise`` it bounds the weights of the divided gradients. The c of the
            others stay where a task takes no part. Needs ``solver="exact"``.
        epsilon: Frank-Wolfe stops after a step shorter than this.
        max_iters: And after this many steps.

    Degenerate cases: a zero gradient is the shortest vector, so it gets all the weight and d is 0
    (a task that takes no part does not count). If 0 is in the convex hull, d is 0 but for rounding.
    Of equal gradients, the share of each is arbitrary. ``"loss"`` and ``"loss+"``: a loss that is
    not positive makes the answer NaN. T = 1: ``w = 1``. With ``min_weights`` of the sum 1, ``w = c``.

    Where others differ: the official code of PE-LTR solves without ``w ≥ c`` and then projects the answer on it, which
    is up to 8% longer than the shortest.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is of the wrong type, or there are no losses to divide by.

    Jean-Antoine Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization", C. R. Acad. Sci. Paris, Ser. I 350, 2012. Ozan Sener, Vladlen Koltun, "Multi-Task
    Learning as Multi-Objective Optimization", NeurIPS 2018. ``min_weights``: Xiao Lin, Hongjie Chen, Changhua Pei et
    al., "A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce Recommendation", RecSys 2019.

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
        min_weights: float | Sequence[float] | Tensor | None = None,
        epsilon: float = 1e-3,
        max_iters: int = 100,
    ) -> None:
        self.solver = one_of("solver", solver, ("exact", "frank_wolfe"))
        self.normalise = one_of("normalise", normalise, ("none", "l2", "loss", "loss+"))
        self.min_weights = None if min_weights is None else LeastWeights(min_weights)
        if min_weights is not None and solver != "exact":
            raise ValueError(
                "Parameter `min_weights` should be None with `solver = 'frank_wolfe'`. "
                f"Found `min_weights = {min_weights!r}`."
            )
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
            least = None if self.min_weights is None else self.min_weights.on(gram)
            return ops.solve_mgda(gram, scale, min_weights=least)
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


class LeastWeights:
    """What the weights of T tasks are at least: one number for all, or one for each.

    Raises:
        TypeError: If it is neither.
        ValueError: If a number is negative or not finite, or they sum to more than 1.
    """

    def __init__(self, values: float | Sequence[float] | Tensor) -> None:
        self.each: float | PerTask
        if isinstance(values, (bool, int, float)):
            self.each = non_negative("min_weights", values)
            return
        self.each = PerTask("min_weights", values, "not negative")
        self._check(self.each.total, values)

    def on(self, gram: Tensor) -> Tensor:
        """``(T,)`` float64 for Gram matrices ``(S, T, T)``.

        Raises:
            ValueError: If there are not T of them, or T times the number is more than 1.
        """
        tasks = gram.shape[-1]
        if isinstance(self.each, PerTask):
            return self.each.on(gram.device, tasks)
        self._check(tasks * self.each, f"{self.each}` for `T = {tasks}")
        return gram.new_full((tasks,), self.each)

    @staticmethod
    def _check(total: float, found: Any) -> None:
        if total > 1.0 + 1e-12:
            raise ValueError(
                "Parameter `min_weights` should sum to at most 1 over all tasks. "
                f"Found `min_weights = {found}`."
            )

    def __repr__(self) -> str:
        return repr(self.each)

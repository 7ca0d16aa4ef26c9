"""PMGDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import closed_share, non_negative
from ._losses import losses_on
from ._preference import Preference
from ._registry import register

__all__ = ["PMGDA"]


@register("pmgda")
class PMGDA(NativeMethod):
    """Preference-based MGDA: first to the ray ``L ∥ r``, then down along it.

    ``h`` is the distance of the losses from the ray of the preference r, ``y`` its derivative by the losses and
    ``∇h = Jᵀy``. Within ``h_tol`` of the ray the answer is MGDA's. Elsewhere it is the v in the convex hull of the unit
    gradients ``ĝ_1, ..., ĝ_T, ∇h/|∇h|`` that solves a linear program:

        ``max t``  with  ``⟨g_i, v⟩ ≥ t`` for all i,  ``⟨∇h, v⟩ ≥ sigma |∇h|``.

    Guarantee: ``⟨∇h, d⟩ ≥ sigma |∇h|`` to 1e-9, so h falls at first order, at a rate that does not depend on the
    gradients' lengths.

    Args:
        preference: r, one positive number a task: here a task of twice the number ends with *twice* the loss. Can be
            handed in with each call.
        h_tol: In the unit of the losses.
        sigma: In [0, 1].

    Weights can be negative: of tasks whose loss should grow to come nearer to the ray. d has the length of a mean of
    unit vectors off the ray, and of gradients on it.

    Degenerate cases: the weights are not continuous at ``h_tol``. If ``∇h`` is 0 (1e-12 of the longest gradient), h
    cannot be changed, and the answer is MGDA's. A zero gradient allows no t above 0, and where several v reach that,
    a corner is chosen. A loss that is not finite makes all weights NaN. Tasks that take no part are left out of r and
    L. T = 1: ``w = 1``.

    Where others differ: official code solves with cvxopt's interior point, which stops up to 2% of d away from the
    corner, adds 1e-4 to norms, takes the preference in float32, and on the ray gives neither of two tasks less than
    0.001.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Xiaoyuan Zhang, Xi Lin, Qingfu Zhang, "PMGDA: A Preference-based Multiple Gradient Descent Algorithm",
    arXiv 2402.09492, 2024.

    Example:
        >>> import torch, mtl_ops
        >>> rows, losses = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 3.0])
        >>> method = mtl_ops.methods.PMGDA(preference=[1.0, 1.0])
        >>> mtl_ops.merge(rows, method, losses=losses)  # the second loss is too large
        tensor([-0.8135,  0.4972])
    """

    segmentwise = True
    uses_losses = True

    def __init__(
        self,
        *,
        preference: Sequence[float] | Tensor | None = None,
        h_tol: float = 1e-2,
        sigma: float = 0.95,
    ) -> None:
        self.preference = Preference(preference, "positive")
        self.h_tol = non_negative("h_tol", h_tol)
        self.sigma = closed_share("sigma", sigma)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        preference = self.preference.on_gram(given, gram)
        values = losses_on(gram, losses, self.name)
        return ops.solve_pmgda(
            gram, scale, losses=values, preference=preference, h_tol=self.h_tol, sigma=self.sigma
        )

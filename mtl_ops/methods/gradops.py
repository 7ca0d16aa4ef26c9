"""GradOPS."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import finite, non_negative, one_of, only
from ._registry import register

__all__ = ["GradOPS"]


@register("gradops")
class GradOPS(NativeMethod):
    """Gradients made orthogonal to those of all other tasks where they conflict.

    ``g_i'`` is what of ``g_i`` is orthogonal to the span of all the others, if it conflicts with one of them, else
    ``g_i`` itself, and

        ``d = Σ_i r_i g_i'``,  ``r = R^α / mean(R^α)``,  ``R_i = ⟨g_i, Σ_j g_j'⟩ / |g_i|``.

    With C the cosines of the gradients, ``g_i' = |g_i| Uᵀ C⁺e_i / (C⁺)_ii``.

    Guarantees: ``⟨g_i', g_j⟩ ≥ 0`` for all i and j, so d contradicts no gradient (1e-7 of ``Σ w_k|g_k|``). Without
    conflict, and α = 0, it is the sum. Multiplying all gradients by a number multiplies d by it.

    ``upgrad`` gives the same guarantee by a smaller change (it projects on the dual cone instead of the orthogonal
    complement) and needs no decision about rank: of five unit gradients, 0.3 to 0.7 of the length is left here.

    Args:
        alpha: α: above 0 tasks that progress more count more, below 0 less.
        project: ``"conflict"``, or ``"all"`` gradients whether they conflict or not.
        rank_tol: Eigenvalues of C below this share of the largest are those of dependent gradients. ``None`` follows
            from the dtype of the gradients; see ``config``.

    That only gradients in conflict are projected, and that tasks without progress (R at most 1e-8 of the gradient's
    length) have r = 0 with α ≠ 0, are from memory of the paper; no code was found.

    Degenerate cases: a gradient that depends on the others has no part that is orthogonal to them, and is silenced, as
    is a twin of a task that conflicts with a third. A zero gradient has no influence. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is of the wrong type.

    Shijie Zhu, Hui Zhao, Tianshu Wu, Pengjie Wang, Hongbo Deng, Jian Xu, Bo Zheng, "Gradient Deconfliction via
    Orthogonal Projections onto Subspaces For Multi-task Learning", WSDM 2025.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), "gradops")
        tensor([0.5000, 1.5000])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        project: Literal["conflict", "all"] = "conflict",
        rank_tol: float | None = None,
    ) -> None:
        self.alpha = finite("alpha", alpha)
        self.project = one_of("project", project, ("conflict", "all"))
        self.rank_tol = None if rank_tol is None else non_negative("rank_tol", rank_tol)

    def solve(
        self,
        gram: Tensor,
        scale: Tensor | None,
        losses: Tensor | None,
        *,
        rounding: float = ops.EXACT,
        **given: Any,
    ) -> Tensor:
        only(given)
        return ops.solve_gradops(
            gram,
            scale,
            alpha=self.alpha,
            project=self.project,
            rank_tol=self.rank_tol,
            rounding=rounding,
        )

"""Aligned-MTL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, one_of
from ._preference import Preference
from ._registry import register

__all__ = ["AlignedMTL"]


@register("aligned_mtl")
class AlignedMTL(NativeMethod):
    """Aligned-MTL: sums gradients that were made orthogonal and equally long.

    Of all such sets of gradients, the nearest to the given ones is taken. With ``G = V Λ Vᵀ``,

        ``w = √σ V Λ^{-1/2} Vᵀ p``,

    over the R eigenvalues that count, R being the rank of the matrix C of the gradients' cosines.

    Guarantees: the transformed gradients ``B J``, ``B = √σ V Λ^{-1/2} Vᵀ``, have the Gram matrix
    ``σ V Vᵀ``: orthogonal and of length √σ, if the gradients are independent. Small eigenvalues are
    as accurate as large ones, whatever the gradients' lengths.

    Args:
        scale_mode: σ, the squared length that all gradients get: ``"min"``, the least eigenvalue
            that counts; ``"median"`` (the lower one of two); or ``"rmse"``, the mean.
        preference: p, one number for each task; ``None`` for ``1/k`` with k tasks, as in TorchJD.
            The paper's own code and LibMTL sum: ``preference=[1] * T``.
        rank_tol: Eigenvalues of C below this share of the largest are those of dependent gradients.
            ``None`` follows from the dtype of the gradients, with k tasks: ``32 k ε`` of float64
            (7e-15 k), 1e-6 k of float32, 8e-6 k of float16, 5e-4 k of bfloat16, the latter two also
            by ``grad_dtype``. Under autocast, gradients are noisier than their dtype tells: with
            noise of relative size δ, take ``10 k δ²``. Others take the rank of G and not of C, and
            in float32 lose tasks whose gradient is 3e-4 of the longest.

    Degenerate cases: a zero gradient has the weight 0 and changes nothing for the others. If all
    are zero, ``w = p``. ``"min"`` and ``"median"`` jump where the rank changes. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type.

    Dmitry Senushkin, Nikolay Patakin, Arseny Kuznetsov, Anton Konushin, "Independent Component
    Alignment for Multi-Task Learning", CVPR 2023.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "aligned_mtl")
        tensor([0.5000, 0.5000])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(
        self,
        *,
        scale_mode: Literal["min", "median", "rmse"] = "min",
        preference: Sequence[float] | Tensor | None = None,
        rank_tol: float | None = None,
    ) -> None:
        self.scale_mode = one_of("scale_mode", scale_mode, ("min", "median", "rmse"))
        self.preference = Preference(preference)
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
        preference = self.preference.on_gram(given, gram)
        return ops.solve_aligned_mtl(
            gram,
            scale,
            preference=preference,
            scale_mode=self.scale_mode,
            rank_tol=self.rank_tol,
            rounding=rounding,
        )

"""ConFIG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative
from ._preference import Preference
from ._registry import register

__all__ = ["ConFIG"]


@register("config")
class ConFIG(NativeMethod):
    """Conflict-free inverse gradients: the same angle with every task gradient.

    The direction is ``U⁺p`` with U the unit gradients; its length is the sum of the projections of
    the gradients on it. In terms of the norms n and the cosines C of the gradients,

        ``x = C⁺p``,  ``w_i = (Σ_j n_j (Cx)_j / xᵀCx) · x_i / n_i``.

    Guarantees, if the gradients are independent: the cosines of the merged gradient d with the
    tasks' are in the ratio of p, and for p = 1 all equal to ``(1ᵀC⁻¹1)^{-1/2} > 0``: no task gets
    worse. The direction does not depend on the gradients' lengths, and ``|d|`` is proportional to
    them.

    Because C squares the singular values of U, those below 1e-7 of the largest (in float32, 1e-3)
    cannot be told from 0; the pseudo-inverse of U itself can, at the price of a singular value
    decomposition of U.

    Args:
        preference: p, one number for each task; ``None`` for 1.
        rank_tol: Eigenvalues of C below this share of the largest are those of dependent gradients.
            ``None`` follows from the dtype of the gradients, with k tasks: ``32 k ε`` of float64
            (7e-15 k), 1e-6 k of float32, 8e-6 k of float16, 5e-4 k of bfloat16, the latter two also
            by ``grad_dtype``. Under autocast, gradients are noisier than their dtype tells: with
            noise of relative size δ, take ``10 k δ²``.

    In float32 the paper's own package, conflictfree, takes a least-squares solution of the long unit
    gradients, which for three tasks was wrong by up to 1.7 times the length; in float64 it agrees.

    Degenerate cases: a zero gradient has the weight 0 and changes nothing for the others. If p is
    orthogonal to the range of C (all gradients are zero, or they cancel exactly), there is no such
    direction, and the weights are 0; other implementations answer with the direction of the
    rounding errors. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type.

    Qiang Liu, Mengyu Chu, Nils Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed
    Neural Networks", ICLR 2025.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "config")
        tensor([2.5000, 2.5000])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(
        self,
        *,
        preference: Sequence[float] | Tensor | None = None,
        rank_tol: float | None = None,
    ) -> None:
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
        return ops.solve_config(
            gram, scale, preference=preference, rank_tol=self.rank_tol, rounding=rounding
        )

"""UPGrad."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._dual_cone import DualConeMethod
from ._registry import register

__all__ = ["UPGrad"]


@register("upgrad")
class UPGrad(DualConeMethod):
    """Unconflicting projection of gradients: each is projected so that it contradicts no other.

    The vectors that contradict no gradient, ``⟨d, g_i⟩ ≥ 0`` for all i, are the dual cone. Each
    ``p_i g_i`` is replaced by the nearest of them, and the projections are added:

        ``w = Σ_i π(p_i e_i)``,  ``π(u)`` the ``v ≥ u`` with ``vᵀGv`` least.

    Guarantees: no gradient is contradicted, ``⟨g_i, d⟩ ≥ -1e-9 |g_i| |d|``, if the matrix of the
    gradients' cosines is well conditioned (with a condition number to 1e3, and d to 1e-4 of the
    longest ``w_i g_i``). ``w ≥ p``, and ``w = p`` without conflict. Multiplying the
    gradient of one task by a positive number multiplies its part of d by it: d is linear under
    scaling (with ``scaling="rows"``).

    Args:
        preference: p, one number that is not negative for each task; ``None`` for ``1/k`` with k
            tasks.
        scaling: What the ridge is relative to: ``"rows"``, each gradient's own ``|g_i|²``; or
            ``"frobenius"``, ``Σ_k |g_k|²`` for all, with which a gradient of a hundredth of the
            others' length is run over.
        reg_eps: The ridge, as a share of that: ``vᵀ(G + ridge)v`` is made least, and the guarantee is
            ``⟨g_i, d⟩ ≥ -reg_eps w_i |g_i|²``. It keeps the weights finite where the gradients do not
            determine them. ``None`` starts from 1e-6, or what the rounding of the gradients calls for
            (1e-6 k of float32 with k tasks), and takes the ridge out again, in up to eight rounds
            that each draw v to the one before instead of to 0.
        norm_eps: If ``Σ_k |g_k|²`` is below this, conflict is ignored, ``w = p``.

    TorchJD's are ``scaling="frobenius", reg_eps=1e-4, norm_eps=1e-4``, the latter absolute: it
    ignores conflict whenever all gradients are shorter than 0.01.

    Degenerate cases: a zero gradient changes nothing for the others. T = 1: ``w = p``.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type.

    Pierre Quinton, Valérian Rey, "Jacobian Descent for Multi-Objective Optimization",
    arXiv:2406.16232, 2024.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[2.0, 0.0], [-2.0, 2.0]]), "upgrad")
        tensor([0.5000, 1.5000])
    """

    def solve(
        self,
        gram: Tensor,
        scale: Tensor | None,
        losses: Tensor | None,
        *,
        rounding: float = ops.EXACT,
        **given: Any,
    ) -> Tensor:
        return ops.solve_upgrad(gram, scale, **self.arguments(gram, given, rounding))

"""DualProj."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._dual_cone import DualConeMethod
from ._registry import register

__all__ = ["DualProj"]


@register("dualproj")
class DualProj(DualConeMethod):
    """Projects the preferred combination of gradients so that it contradicts no gradient.

        ``w = π(p)``,  ``π(u)`` the ``v ≥ u`` with ``vᵀGv`` least:

    the vector nearest to ``Σ_i p_i g_i`` among those with ``⟨d, g_i⟩ ≥ 0`` for all i.

    Guarantees: ``⟨g_i, d⟩ ≥ -1e-9 |g_i| |d|`` as of ``UPGrad``, ``w ≥ p``, and ``w = p`` if ``Σ p_i g_i``
    contradicts no gradient.

    Args:
        preference: p, one number that is not negative for each task; ``None`` for ``1/k`` with k
            tasks.
        scaling: As of ``UPGrad``.
        reg_eps: As of ``UPGrad``.
        norm_eps: As of ``UPGrad``, and so are TorchJD's values.

    Degenerate cases: a zero gradient changes nothing for the others. T = 1: ``w = p``.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type.

    David Lopez-Paz, Marc'Aurelio Ranzato, "Gradient Episodic Memory for Continual Learning",
    NeurIPS 2017, equation 11.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 1.0], [-3.0, -1.0]]), "dualproj")
        tensor([-0.5000,  0.5000])
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
        return ops.solve_dualproj(gram, scale, **self.arguments(gram, given, rounding))

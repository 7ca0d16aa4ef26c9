"""CAGrad."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, one_of, only
from ._registry import register

__all__ = ["CAGrad"]


@register("cagrad")
class CAGrad(NativeMethod):
    """Conflict-averse gradient descent: near the mean gradient, the best for the worst task.

    With ``g0`` the mean of the gradients,

        ``d = argmax min_i ⟨g_i, d⟩`` subject to ``|d - g0| ≤ c|g0|``.

    The paper's dual problem is solved exactly, by a finite method: ``d = g0 + (c|g0|/|g_ω|) g_ω``
    with ω on the simplex where ``⟨g_ω, g0⟩ + c|g0||g_ω|`` is least.

    Guarantees (for ``rescale = 0``): ``|d - g0| = c|g0|``; ``min_i ⟨g_i, d⟩ ≥ min_i ⟨g_i, g0⟩``;
    ``w ≥ 1/k`` with k tasks. With ``c < 1`` the mean loss goes down. Multiplying all gradients by a
    number multiplies d by it.

    Args:
        c: Radius, as a share of ``|g0|``. 0 is the mean gradient; from 1 on, large radii tend to
            MGDA. 0.5 in LibMTL and in the default of the official code, 0.4 in nash-mtl.
        rescale: What d is divided by: 0, nothing, as in the paper's algorithm and TorchJD; 1,
            ``1 + c²``, as in LibMTL and the official code for NYUv2; 2, ``1 + c``.
        norm_eps: Answers 0 if ``Σ|g_i|²`` is below this, or ``|g_ω|`` below this share of its root.
            TorchJD has 1e-4: its answer is 0 whenever all gradients are shorter than 0.01, and if
            one is 1e4 times longer than the rest.

    Degenerate cases: if 0 is in the convex hull of the gradients and the ball is so large that
    ``g_ω`` is 0, the maximum is 0 and many d reach it; the answer is the one nearest to g0 (or 0 if
    ``norm_eps > 0``). So it is with a zero gradient. If g0 is 0, the answer is 0. T = 1:
    ``w = 1 + c``, before rescaling.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is of the wrong type.

    Bo Liu, Xingchao Liu, Xiaojie Jin, Peter Stone, Qiang Liu, "Conflict-Averse Gradient Descent for
    Multi-task Learning", NeurIPS 2021.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), "cagrad")
        tensor([0.2500, 0.7500])
    """

    segmentwise = True

    def __init__(
        self, *, c: float = 0.5, rescale: Literal[0, 1, 2] = 0, norm_eps: float = 0.0
    ) -> None:
        self.c = non_negative("c", c)
        self.rescale = one_of("rescale", rescale, (0, 1, 2))
        self.norm_eps = non_negative("norm_eps", norm_eps)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_cagrad(gram, scale, c=self.c, rescale=self.rescale, norm_eps=self.norm_eps)

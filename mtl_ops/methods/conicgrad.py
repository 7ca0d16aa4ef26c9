"""ConicGrad."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import only, positive
from ._registry import register

__all__ = ["ConicGrad"]


@register("conicgrad")
class ConicGrad(NativeMethod):
    """The direction that is best for the worst task within a cone round the mean gradient.

    With ``g0`` the mean of the gradients,

        ``max_d min_i ⟨g_i, d⟩ / |d|``  with  ``⟨g0, d⟩ ≥ c |g0| |d|``,  and then  ``|d| = |g0|``.

    Without the cone that is MGDA's direction. Where that is outside, d lies on the border of the cone and is found
    exactly, by CAGrad's problem for what of the gradients is orthogonal to g0.

    Guarantees: ``|d| = |g0|``; ``⟨g0, d⟩ ≥ c |g0| |d|``; no other direction in the cone has a larger least inner
    product where that is positive (to 1e-9 of the longest gradient), g0 included. Multiplying all gradients by a number
    multiplies d by it.

    Args:
        c: The cosine of the cone's half angle, in (0, 1]; 1 leaves g0 alone. With c = 1/4 MGDA's direction is inside on
            most gradients.

    Degenerate cases: if g0 is 0 there is no axis, and the answer is 0. If 0 is in the convex hull of the gradients, no
    direction is good for all: then the one nearest to g0 that harms none, if it is in the cone, else g0. So it is with
    a zero gradient. T = 1: ``w = 1``.

    The problem is the paper's; no official code was found. The default of c, and that the length is that of g0, are
    from memory of the paper. A closed form ``d ∝ (c²|g0|² I - g0 g0ᵀ)⁻¹ g_ω`` that it is remembered for is a stationary
    point of an indefinite Lagrangian, with a negative inner product with g0 for c < 1, and not used.

    Raises:
        ValueError: If c is out of range.
        TypeError: If it is no number.

    Negar Hassanpour, Muhammad Kamran Janjua, Kunlin Zhang, Sepehr Lavasani, Xiaowen Zhang, Chunhua Zhou, Chao Gao,
    "Fantastic Multi-Task Gradient Updates and How to Find Them In a Cone", arXiv 2502.00217, 2025.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), "conicgrad")  # 5/2 long, as the mean is
        tensor([2.0000, 1.5000])
    """

    segmentwise = True

    def __init__(self, *, c: float = 0.25) -> None:
        if positive("c", c) > 1:
            raise ValueError(f"Parameter `c` should be in (0, 1]. Found `c = {c}`.")
        self.c = c

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_conicgrad(gram, scale, c=self.c)

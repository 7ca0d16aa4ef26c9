"""DiBS-MTL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import integer, only, positive
from ._registry import register

__all__ = ["DiBSMTL"]


@register("dibs_mtl")
class DiBSMTL(NativeMethod):
    """Direction-based bargaining: unit gradients, each weighed by its distance from the bargain.

    From ``x = 0``, with the unit gradients ĝ,

        ``x ← x - step Σ_i |x + ĝ_i| ĝ_i``,  ``steps`` times, or until ``|x| > 1``;  ``d = -x``.

    Guarantees: d does not change when a gradient is multiplied by a positive number, and so under every monotone
    transformation of a loss. There is none about conflicts.

    Args:
        steps: With one, it is ``step`` times the sum of the unit gradients, which is ``sum`` with ``normalise="l2"``.
            The official 5-step variant is ``steps=5``, times its radius, which is a learning rate.
        step: In units of the ball's radius.

    Degenerate cases: a zero gradient has the weight 0. T = 1 with one step: ``w = step / |g|``.

    Where others differ: official code adds 1e-10 to norms, and multiplies by its learning rate twice.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is of the wrong type.

    Surya Murthy, Kushagra Gupta, Mustafa O. Karabag, David Fridovich-Keil, Ufuk Topcu, "Monotonic Transformation
    Invariant Multi-task Learning", arXiv 2509.23948, 2025.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), "dibs_mtl")
        tensor([0.2000, 0.2000])
    """

    segmentwise = True

    def __init__(self, *, steps: int = 1, step: float = 0.2) -> None:
        self.steps = integer("steps", steps, 1)
        self.step = positive("step", step)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        return ops.solve_dibs_mtl(gram, scale, steps=self.steps, step=self.step)

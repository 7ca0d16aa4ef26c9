"""PCD."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import closed_share, non_negative, only, share
from ._memory import recall
from ._registry import register

__all__ = ["PCD"]


@register("pcd")
class PCD(NativeMethod):
    """Priority-constrained descent: along the first task's gradient, at some gain for all others.

    Gradients are normalised by running means of their squared lengths, ``ĝ_i = g_i / √(v_i + eps)``.
    The merged gradient has the length of ``g_1`` and the direction of

        ``argmin |d - ĝ_1|`` subject to ``⟨ĝ_j, d⟩ ≥ τ |ĝ_j|²`` for all ``j ≥ 2``.

    Guarantees: ``|d| = |g_1|``, and every other task gains, unless their demands contradict each
    other: then ``d = g_1``.

    Args:
        tau: τ, the gain that is guaranteed, as a share of that along the task's own gradient.
        beta: Of the running means, ``v ← β v + (1-β) |g|²``, which are corrected for their start.
        eps: Absolute: choose it well below the squared lengths.

    Memory: the running means, ``(S, 2, T)`` for S sets of parameters: uncorrected, and the total
    weight in them. A task that takes no part in a step keeps its own. A step whose gradients are
    not finite leaves them as they are.

    Degenerate cases: if the first task takes no part or its gradient is zero, the answer is 0. So it
    is if d vanishes, but for rounding. A zero gradient of another task demands nothing. T = 1:
    ``w = 1``.

    The defaults are TorchJD's. It tells whether a demand is met by the longest of the normalised
    gradients, and ignores the demands of much shorter ones.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type.

    Dara Varam, Mohamed I. AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained Descent
    for Hierarchical Multi-Objective Optimization", TMLR 2026.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.PCD(tau=0.0)
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), method)
        tensor([0.7071, 0.7071])
    """

    state_names = ("means",)

    def __init__(self, *, tau: float = 0.02, beta: float = 0.999, eps: float = 1e-8) -> None:
        self.tau = closed_share("tau", tau)
        self.beta = share("beta", beta)
        self.eps = non_negative("eps", eps)
        self.means: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        segments, tasks = gram.shape[:2]
        means = recall(self, "means", (segments, 2, tasks), gram.device, 0.0)
        return ops.solve_pcd(gram, scale, state=means, tau=self.tau, beta=self.beta, eps=self.eps)

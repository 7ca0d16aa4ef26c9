"""PCGrad."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import one_of
from ._orders import ORDERS, orders_for
from ._registry import register

__all__ = ["PCGrad"]


@register("pcgrad")
class PCGrad(NativeMethod):
    """Projecting conflicting gradients: each is freed from what contradicts the others.

    A copy ``g ← g_i`` of each gradient meets the original gradients ``g_j`` of the other tasks one
    after the other, and where they conflict is projected on the plane orthogonal to ``g_j``:

        ``g ← g - min(0, ⟨g, g_j⟩) / |g_j|² · g_j``.

    The merged gradient is the sum (or mean) of what becomes of the copies.

    Guarantees: without conflict, ``w = 1`` (or ``1/k`` with k tasks). With two tasks, the merged
    gradient contradicts neither. With more, conflicts may remain: that is the method. It is linear
    in the size of all gradients, and there is no epsilon in it.

    Args:
        reduction: ``"sum"``, as in the paper, TorchJD and LibMTL, or ``"mean"``.
        order: In which order the others are met. ``"random"``, as in the paper, TorchJD and LibMTL:
            a permutation of its own for each task, drawn from ``generator``. ``"shared"``, as in
            SamsungLabs/MTL: one permutation for all. ``"cyclic"``, as in conflictfree: the tasks as
            they come.

    An order can be handed in as ``orders``, an integer tensor ``(T, K)``, or ``(S, T, K)`` for S
    sets of parameters: row i names the tasks that task i meets. Names of i itself, of tasks that
    take no part and of no task at all are passed over. (LibMTL and nash-mtl let a gradient meet its
    own original: they may differ by a few percent.)

    Degenerate cases: a zero gradient changes nothing. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range, or ``orders`` has another shape.
        TypeError: If ``orders`` is no tensor of integers.

    Tianhe Yu, Saurabh Kumar, Abhishek Gupta, Sergey Levine, Karol Hausman, Chelsea Finn, "Gradient
    Surgery for Multi-Task Learning", NeurIPS 2020.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), "pcgrad")
        tensor([0.5000, 1.5000])
    """

    def __init__(
        self,
        *,
        reduction: Literal["sum", "mean"] = "sum",
        order: Literal["random", "shared", "cyclic"] = "random",
    ) -> None:
        self.reduction = one_of("reduction", reduction, ("sum", "mean"))
        self.order = one_of("order", order, ORDERS)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        orders = orders_for(self.order, given, gram, self.generator)
        return ops.solve_pcgrad(gram, scale, orders=orders, mean=self.reduction == "mean")

"""Online PCGrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..ops.capture import drawing
from ._base import NativeMethod
from ._checks import one_of, only
from ._registry import register

__all__ = ["OnlinePCGrad"]


@register("online_pcgrad")
class OnlinePCGrad(NativeMethod):
    """PCGrad against the running sum: needs one gradient beside the sum, whatever T is.

    From ``a = 0``, for each task in turn,

        ``a ← a + g_i - min(0, ⟨g_i, a⟩) / |a|² · a``.

    With ``memory="stream"`` the gradients are taken so, one after the other, each freed before the next: a step holds
    two of them, and differentiates each loss once. Where options ask for more at once (an order handed in for each set
    of parameters among them), the step is that of other methods, which holds T - 1 and a piece.

    Guarantees: ``⟨a, a_before⟩ ≥ |a_before|²`` in each turn; without conflict it is the sum. It is *not* free of
    conflict: earlier tasks have precedence, and a later one loses where its conflict is strong (with two tasks,
    always where ``⟨g_1, g_2⟩ < -|g_2|² sin² θ``). Hence the random order.

    Args:
        order: ``"random"``, a permutation from ``generator`` for each call and each set of parameters (with
            ``memory="stream"`` for each call: a gradient is seen once, for all sets); or ``"cyclic"``, the tasks as
            they come.

    An order can be handed in as ``order``, an integer tensor ``(T,)``, or ``(S, T)`` for S sets of parameters; names of
    tasks that take no part and of no task at all are passed over.

    Degenerate cases: where a or g_i is 0, they are added. T = 1: ``w = 1``. Each conflict lengthens what came before by
    ``1 - ⟨g_i, a⟩/|a|²``, which has no bound where ``|a|`` is small.

    Where others differ: rslearn's ``MiniPCGrad`` adds 1e-12 to ``|a|²``, and works by tensor: ``granularity="tensor"``.

    Raises:
        ValueError: If a parameter is out of range, or ``order`` has another shape.
        TypeError: If ``order`` is no tensor of integers.

    After Tianhe Yu, Saurabh Kumar, Abhishek Gupta, Sergey Levine, Karol Hausman, Chelsea Finn, "Gradient Surgery for
    Multi-Task Learning", NeurIPS 2020.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.OnlinePCGrad(order="cyclic")
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), method)
        tensor([1., 1.])
    """

    def __init__(self, *, order: Literal["random", "cyclic"] = "random") -> None:
        self.order = one_of("order", order, ("random", "cyclic"))

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        return ops.solve_online_pcgrad(
            gram, scale, order=self.order_of(given, gram.shape[:2], gram.device)
        )

    def order_of(
        self, given: Mapping[str, Any], shape: tuple[int, ...], device: torch.device
    ) -> Tensor:
        """``(S, T)`` int64: what is handed in, or drawn."""
        only(given, "order")
        handed = given.get("order")
        segments, tasks = shape
        if handed is None and self.order == "cyclic":
            handed = torch.arange(tasks, device=device)
        elif handed is None:
            # On the device, without a wait. Integers, because ties among few digits would favour the first task.
            keys = torch.empty(segments, tasks, dtype=torch.int64, device=device)
            with drawing(self.generator):
                return keys.random_(generator=self.generator).argsort(dim=-1)
        if not isinstance(handed, Tensor) or handed.is_floating_point() or handed.is_complex():
            found = handed.dtype if isinstance(handed, Tensor) else type(handed).__name__
            raise TypeError(f"Parameter `order` should be a tensor of integers. Found {found}.")
        if handed.shape not in ((tasks,), (1, tasks), (segments, tasks)):
            raise ValueError(
                f"Parameter `order` should have shape ({tasks},) or ({segments}, {tasks}). "
                f"Found shape {tuple(handed.shape)}."
            )
        return handed.to(device, torch.int64).expand(segments, tasks).contiguous()

"""What methods remember: tensors of one number for each task, and Adam for such numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Adam", "recall"]


def recall(
    memory: Tensor | None, shape: tuple[int, ...], device: torch.device, first: float, method: str
) -> Tensor:
    """The memory on the device; before the first call, filled with ``first``.

    Raises:
        ValueError: If it is of other tasks or segments.
    """
    if memory is None:
        return torch.full(shape, first, dtype=torch.float64, device=device)
    if tuple(memory.shape) != shape:
        raise ValueError(
            f"Method {method!r} should be called for the same tasks and segments every time "
            f"(`reset()` forgets them). Found shape {shape} after {tuple(memory.shape)}."
        )
    return memory.to(device)


class Adam:
    """The steps of ``torch.optim.Adam`` with β = (0.9, 0.999) and ε = 1e-8, for some of T numbers.

    Each number has a count of steps of its own, so that it is corrected rightly where a task is
    absent from some steps. Nothing here waits for the device.

    Args:
        lr: Learning rate.
        weight_decay: Added to the gradient, times the number.
    """

    def __init__(self, lr: float, weight_decay: float = 0.0) -> None:
        self.lr, self.weight_decay = lr, weight_decay

    def step(
        self, x: Tensor, grad: Tensor, where: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """New numbers ``(T,)`` and state ``(3, T)``: two moments and the count of steps.

        Args:
            x: ``(T,)`` float64.
            grad: ``(T,)`` float64.
            where: ``(T,)`` bool; other numbers stay, whatever their gradient.
            state: What the last call returned, or ``None``.
        """
        if state is None:
            state = x.new_zeros(3, len(x))
        mean, square, steps = state.to(x.device).unbind()
        slope = torch.where(where, grad + self.weight_decay * x, 0.0)
        mean, square, steps = (
            torch.where(where, new, old)
            for new, old in (
                (mean.lerp(slope, 0.1), mean),
                (0.999 * square + 0.001 * slope.square(), square),
                (steps + 1, steps),
            )
        )
        size = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        step = self.lr * mean / (1 - 0.9**steps) / size
        return torch.where(where, x - step, x), torch.stack([mean, square, steps])

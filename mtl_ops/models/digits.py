"""A small convolutional network for the four tasks on 8x8 digits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..data.digits import DIGITS_TASKS
from ..data.task import Task
from .shared_bottom import SharedBottom
from .stages import convolution

__all__ = ["DigitsCNN"]


class DigitsCNN(SharedBottom):
    """Three convolutions and one dense layer shared by all tasks; about 106,000 parameters.

    Input ``(B, 1, 8, 8)``, features ``(B, features)``, outputs ``(B, outputs)`` of each task.

    Args:
        tasks: Which of :data:`mtl_ops.data.DIGITS_TASKS` get a head; all four by default.
        channels: Widths of the three convolutions.
        features: Width of what the backbone hands to the heads.

    Raises:
        ValueError: If a task is unknown, named twice, or none is named.

    Example:
        >>> from mtl_ops.data import digits
        >>> batch = {name: values[:8] for name, values in digits(seed=0).train.items()}
        >>> list(DigitsCNN(tasks=["digit", "parity"]).losses(batch))
        ['digit', 'parity']
    """

    def __init__(
        self,
        tasks: Sequence[str] = tuple(DIGITS_TASKS),
        *,
        channels: tuple[int, int, int] = (16, 32, 64),
        features: int = 64,
    ) -> None:
        unknown = [name for name in tasks if name not in DIGITS_TASKS]
        if unknown:
            raise ValueError(
                f"Parameter `tasks` should be chosen from {list(DIGITS_TASKS)}. "
                f"Found `tasks = {list(tasks)}`."
            )
        if len(set(tasks)) != len(tasks):
            raise ValueError(
                f"Parameter `tasks` should name each task once. Found `tasks = {list(tasks)}`."
            )
        chosen = [DIGITS_TASKS[name] for name in tasks]
        super().__init__(
            _backbone(channels, features),
            {task.name: _head(task, features) for task in chosen},
            {task.name: task.loss for task in chosen},
        )


def _backbone(channels: tuple[int, int, int], features: int) -> nn.Sequential:
    """``(B, 1, 8, 8)`` to ``(B, features)``."""
    first, second, third = channels
    return nn.Sequential(
        *convolution(1, first),
        *convolution(first, second),
        nn.MaxPool2d(2),
        *convolution(second, third),
        nn.Flatten(),
        nn.Linear(third * 4 * 4, features),
        nn.ReLU(),
    )


def _head(task: Task, features: int) -> nn.Module:
    """A linear layer for labels; an image needs one hidden layer more."""
    if task.kind == "regression":
        return nn.Sequential(
            nn.Linear(features, 2 * features), nn.ReLU(), nn.Linear(2 * features, task.outputs)
        )
    return nn.Linear(features, task.outputs)

"""Layers that several examples use."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..data import Task
from ..models.base import Criterion
from ..models.stages import convolution

__all__ = ["image_backbone", "linear_heads"]


def image_backbone(side: int, channels: int = 1, features: int = 64) -> nn.Sequential:
    """``(B, channels, side, side)`` to ``(B, features)``, for sides of 8 and more.

    Example:
        >>> import torch
        >>> image_backbone(28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 64])
    """
    return nn.Sequential(
        convolution(channels, 16),
        nn.MaxPool2d(2),
        convolution(16, 32),
        nn.MaxPool2d(2),
        convolution(32, 64),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 16, features),
        nn.ReLU(),
    )


def linear_heads(
    tasks: Mapping[str, Task], width: int
) -> tuple[dict[str, nn.Module], dict[str, Criterion]]:
    """A linear layer on features ``(B, width)`` and the loss of each task.

    Example:
        >>> from mtl_ops.data import Task
        >>> heads, criteria = linear_heads({"a": Task("a", 3, "classes")}, width=8)
        >>> heads["a"], list(criteria)
        (Linear(in_features=8, out_features=3, bias=True), ['a'])
    """
    heads: dict[str, nn.Module] = {
        name: nn.Linear(width, task.outputs) for name, task in tasks.items()
    }
    return heads, {name: task.loss for name, task in tasks.items()}

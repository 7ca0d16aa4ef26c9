"""Layers that several examples use."""

from __future__ import annotations

from torch import nn

from ..models.stages import convolution

__all__ = ["convolution", "image_backbone"]


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

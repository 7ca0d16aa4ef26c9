"""Layers that several examples use."""

from __future__ import annotations

from torch import nn

__all__ = ["convolution", "image_backbone"]


def convolution(before: int, after: int) -> nn.Sequential:
    """A 3x3 convolution that keeps height and width; the normalisation brings its own bias."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


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

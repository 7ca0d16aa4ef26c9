"""Encoders as sequences of stages, which can be shared one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["cnn", "convolution", "resnet18"]


def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, normalised and rectified; the normalisation brings its own bias."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def cnn(channels: int = 1, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A small convolutional network, one stage a width; each but the first halves the picture.

    Args:
        channels: Of the image ``(B, channels, H, W)``.
        widths: Channels after each stage.

    Returns:
        Stages up to ``(B, widths[-1], H / 2^k, W / 2^k)`` for k + 1 widths.

    Raises:
        ValueError: If there is no width.

    Example:
        >>> import torch
        >>> [tuple(stage(torch.zeros(2, 1, 8, 8)).shape) for stage in cnn()[:1]]
        [(2, 16, 8, 8)]
    """
    if not widths:
        raise ValueError("Parameter `widths` should hold at least one width. Found none.")
    stages = [convolution(channels, widths[0])]
    for before, after in itertools.pairwise(widths):
        stages.append(nn.Sequential(nn.MaxPool2d(2), convolution(before, after)))
    return nn.Sequential(*stages)


class ResidualBlock(nn.Module):
    """``relu(x' + F(x))`` with F two 3x3 convolutions, and x' the x or its 1x1 projection."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(before, after, stride)
        self.second = nn.Sequential(
            nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(after)
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(after),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W)`` to ``(B, after, H / stride, W / stride)``."""
        return torch.relu(self.shortcut(x) + self.second(self.first(x)))


def resnet18(channels: int = 3, width: int = 64) -> nn.Sequential:
    """The 18-layer residual network without its classifier, in five stages.

    Args:
        channels: Of the image ``(B, channels, H, W)``.
        width: Channels of the first stage; 64 in the paper, and the last has 8 times as many.

    Returns:
        Stages up to ``(B, 8 width, H / 32, W / 32)``: a strided 7x7 convolution with pooling, and
        four of two residual blocks each.

    Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, "Deep Residual Learning for Image
    Recognition", CVPR 2016.

    Example:
        >>> import torch
        >>> resnet18(width=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 32, 2, 2])
    """
    stem = nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )
    stages, before = [stem], width
    for stage in range(4):
        after, stride = width << stage, 1 if stage == 0 else 2
        stages.append(
            nn.Sequential(ResidualBlock(before, after, stride), ResidualBlock(after, after, 1))
        )
        before = after
    return nn.Sequential(*stages)

"""Two dense tasks: what a pixel shows, and how far away it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from ..data import Goal, Split
from ..data.dense import Depth, Segmentation
from ..data.folders import DataError
from ..data.npy_folders import LABELS, is_npy_folder, label_folder, npy_folder
from ..data.scenes import SCENE_CLASSES, scenes
from ..models import SharedBottom
from ..models.stages import convolution
from .base import Example, Size

__all__ = ["DenseBackbone", "SegmentationDepth"]


class DenseBackbone(nn.Module):
    """An encoder and a decoder with skip connections, ``(B, 3, H, W)`` to ``(B, width, H, W)``.

    Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    MICCAI 2015, with two levels and sums for concatenations.

    Args:
        width: Channels at full resolution; twice and four times as many below.

    Example:
        >>> import torch
        >>> DenseBackbone(8)(torch.zeros(2, 3, 18, 30)).shape
        torch.Size([2, 8, 18, 30])
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.top = convolution(3, width)
        self.below = nn.Sequential(nn.MaxPool2d(2), convolution(width, 2 * width))
        self.lowest = nn.Sequential(nn.MaxPool2d(2), convolution(2 * width, 4 * width))
        self.deep = convolution(4 * width, 2 * width)
        self.middle = convolution(2 * width, width)

    def forward(self, images: Tensor) -> Tensor:
        """Features of every pixel."""
        full = self.top(images)
        half = self.below(full)
        deep = self.deep(self.lowest(half))
        middle: Tensor = self.middle(half + _enlarge(deep, half))
        features: Tensor = full + _enlarge(middle, full)
        return features


def _enlarge(small: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(small, size=like.shape[-2:], mode="bilinear")


class SegmentationDepth(Example):
    """Segmentation and depth of generated scenes, or of NYUv2 or Cityscapes from a folder."""

    name: ClassVar[str] = "segmentation-depth"
    title: ClassVar[str] = "scenes"
    note: str = "abs. error: in the unit of the depths; generated ones go from 1 to 4."
    formats: ClassVar[tuple[str, ...]] = ("NYUv2 or Cityscapes as npy files (MTAN)",)
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "mgda", "upgrad", "famo")
    epochs: ClassVar[int] = 6
    batch_size: ClassVar[int] = 16
    seeds: ClassVar[tuple[int, ...]] = (0, 1)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is not None and not is_npy_folder(folder):
            raise DataError(
                f"Folder {folder} lacks train/image; example '{self.name}' reads {self.formats[0]}, "
                "from the links in the README of github.com/lorenmt/mtan."
            )
        self.classes = len(SCENE_CLASSES) if folder is None else LABELS[label_folder(folder)]

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return {
            "segmentation": Segmentation("segmentation", self.classes),
            "depth": Depth("depth"),
        }

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; a folder's own split is kept for every seed."""
        if self.folder is not None:
            return npy_folder(self.folder, None if size == "default" else 32)
        train, test = (640, 256) if size == "default" else (64, 32)
        return Split(scenes(train, seed), scenes(test, seed + 2**32))

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = self.tasks
        outputs = {"segmentation": self.classes, "depth": 1}
        return SharedBottom(
            DenseBackbone(16),
            {task: _head(16, outputs[task]) for task in tasks},
            {task: goals[task].loss for task in tasks},
        )


def _head(width: int, outputs: int) -> nn.Sequential:
    """One hidden layer, then a linear one, at every pixel."""
    return nn.Sequential(convolution(width, width), nn.Conv2d(width, outputs, kernel_size=1))

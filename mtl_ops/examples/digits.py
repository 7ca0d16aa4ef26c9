"""Four tasks on handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from ..data import DIGITS_TASKS, Goal, Split, digits
from ..models import DigitsCNN
from .base import Example, Size

__all__ = ["Digits"]


class Digits(Example):
    """Which digit, odd or even, five or more, and the image itself, from one 8x8 image.

    The tasks share one convolutional network. See :func:`mtl_ops.data.digits`.
    """

    name: ClassVar[str] = "digits"
    title: ClassVar[str] = "handwritten digits"
    note: ClassVar[str] = "MSE: 1 is the variance of the input."

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(DIGITS_TASKS)

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; the tiny size has a quarter of the images."""
        train, test = digits(seed)
        if size == "default":
            return Split(train, test)
        return Split(
            {name: values[:330] for name, values in train.items()},
            {name: values[:150] for name, values in test.items()},
        )

    def model(self, tasks: Sequence[str], split: Split, architecture: str) -> nn.Module:
        """See :class:`Example`."""
        return DigitsCNN(tasks)

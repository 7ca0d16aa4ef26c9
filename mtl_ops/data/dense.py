"""Tasks with a target for every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from .task import Goal, ratio, unless_nan

__all__ = ["Depth", "Segmentation"]

#: Label of a pixel that belongs to no class.
VOID = -1


@dataclass(frozen=True)
class Segmentation(Goal):
    """A class for every pixel: cross-entropy, judged by the mean intersection over union.

    ``mIoU = mean_c |predicted_c ∩ true_c| / |predicted_c ∪ true_c|``, over the pixels of all images
    and the classes that occur. Targets are ``(B, H, W)`` int64, with -1 where there is none.

    Everingham, Van Gool, Williams, Winn, Zisserman, "The PASCAL Visual Object Classes Challenge",
    IJCV 2010.

    Example:
        >>> import torch
        >>> task = Segmentation("segmentation", classes=2)
        >>> output = torch.tensor([[[[1.0, 1.0]], [[0.0, 2.0]]]])  # predicts 0, 1
        >>> task.score(output, torch.tensor([[[0, 0]]]))
        tensor(0.2500)
    """

    name: str
    classes: int
    metric: ClassVar[str] = "mIoU"
    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy of ``(B, classes, H, W)`` over the pixels that have a class."""
        total = functional.cross_entropy(output, target, ignore_index=VOID, reduction="sum")
        return total / (target != VOID).sum().clamp(min=1)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """``(classes, classes)`` float64: pixels by true and predicted class."""
        valid = target != VOID
        index = self.classes * target[valid] + output.argmax(dim=1)[valid]
        counts = torch.bincount(index, minlength=self.classes**2)
        return unless_nan(counts.double().view(self.classes, self.classes), output)

    def figure(self, tally: Tensor) -> Tensor:
        """The mean intersection over union."""
        both = tally.diagonal()
        union = tally.sum(dim=0) + tally.sum(dim=1) - both
        return (both / union)[union > 0].mean().float()


@dataclass(frozen=True)
class Depth(Goal):
    """A distance for every pixel: mean absolute error, over the pixels whose depth is known.

    Targets are ``(B, 1, H, W)`` float, 0 where the depth is not known.

    Example:
        >>> import torch
        >>> target = torch.tensor([[[[1.0, 0.0]]]])
        >>> Depth("depth").score(torch.full((1, 1, 1, 2), 3.0), target)
        tensor(2.)
    """

    name: str
    metric: ClassVar[str] = "abs. error"
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = False

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean absolute error."""
        total, count = self._error(output, target)
        return total / count.clamp(min=1)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum of the errors, and their number: ``(2,)`` float64."""
        return torch.stack([part.double() for part in self._error(output, target)])

    def figure(self, tally: Tensor) -> Tensor:
        """The mean absolute error."""
        return ratio(tally).float()

    def _error(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        known = target > 0
        return ((output - target).abs() * known).sum(), known.sum()

"""What a task is: its loss, and the figure by which it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Batch", "Goal", "Task"]

#: A batch: the key ``"input"`` and one target per task, all with the same first dimension.
Batch = dict[str, Any]


class Goal(ABC):
    """A loss to train with and a metric to be judged by; derive from it to add a kind of task.

    A metric is a function of sums over the examples (of correct answers, of squared errors, of a
    confusion matrix), so that it can be taken over a test part of any size piece by piece:
    ``figure(tally(a) + tally(b))`` is the metric of a and b together.

    Attributes:
        name: Its key in batches, in losses, and in tables.
        metric: Name of the figure.
        higher_is_better: Direction of the metric; it decides the sign of the task's share in Δm.
        percent: Whether the metric is a share, which tables show in percent.
    """

    name: str
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    percent: ClassVar[bool]

    @abstractmethod
    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean training loss of a batch, a 0-d tensor."""

    @abstractmethod
    def tally(self, output: Any, target: Any) -> Tensor:
        """Sums over a batch, float64, of which :meth:`figure` makes the metric."""

    @abstractmethod
    def figure(self, tally: Tensor) -> Tensor:
        """The metric, a 0-d tensor, from the sums over all batches."""

    @torch.no_grad()
    def score(self, output: Any, target: Any) -> Tensor:
        """The metric of one batch, a 0-d tensor."""
        return self.figure(self.tally(output, target))


def ratio(tally: Tensor) -> Tensor:
    """The first sum over the second: a mean over examples."""
    return tally[0] / tally[1]


def unless_nan(tally: Tensor, output: Tensor) -> Tensor:
    """The sums, or NaN if one of the outputs is, which would otherwise count as some answer."""
    return torch.where(output.isnan().any(), torch.nan, tally)


def pair(total: Tensor, count: int) -> Tensor:
    """A sum and the number of its terms, ``(2,)`` float64."""
    return torch.stack([total.double(), torch.full_like(total, count, dtype=torch.float64)])


@dataclass(frozen=True)
class Task(Goal):
    """One task of a multi-task problem.

    Attributes:
        name: Its key in batches, in losses, and in tables.
        outputs: Width of the output, so that a head returns ``(B, outputs)``.
        kind: ``"classes"`` (cross-entropy, targets ``(B,)`` int64), ``"binary"`` (one logit,
            targets ``(B,)`` float 0 or 1) or ``"regression"`` (squared error, targets
            ``(B, outputs)`` float).

    Example:
        >>> import torch
        >>> sign = Task("sign", outputs=1, kind="binary")
        >>> sign.score(torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 1.0]))
        tensor(0.5000)
    """

    name: str
    outputs: int
    kind: Literal["classes", "binary", "regression"]

    @property
    def metric(self) -> str:  # type: ignore[override]
        """Name of the figure that :meth:`score` returns."""
        return "MSE" if self.kind == "regression" else "accuracy"

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Direction of the metric; it decides the sign of the task's share in delta m."""
        return self.kind != "regression"

    @property
    def percent(self) -> bool:  # type: ignore[override]
        """Whether the metric is a share, which tables show in percent."""
        return self.kind != "regression"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean training loss of a batch.

        Args:
            output: ``(B, outputs)``.
            target: See ``kind``.

        Returns:
            A 0-d tensor.
        """
        if self.kind == "classes":
            return functional.cross_entropy(output, target)
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits(output.squeeze(1), target)
        return functional.mse_loss(output, target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Correct answers, or the sum of squared errors, and their number: ``(2,)`` float64."""
        if self.kind == "classes":
            right = (output.argmax(dim=1) == target).sum()
            return unless_nan(pair(right, len(target)), output)
        if self.kind == "binary":
            right = ((output.squeeze(1) > 0) == (target > 0.5)).sum()
            return unless_nan(pair(right, len(target)), output)
        return pair((output - target).square().sum(), target.numel())

    def figure(self, tally: Tensor) -> Tensor:
        """Accuracy in [0, 1], or the mean squared error, float32."""
        return ratio(tally).float()

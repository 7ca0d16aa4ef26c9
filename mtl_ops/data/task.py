"""What a task is: the size of its output, its loss, and the figure by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

__all__ = ["Batch", "Task"]

#: A batch: the key ``"input"`` and one target tensor per task, all with the same first dimension.
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
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
    def metric(self) -> str:
        """Name of the figure that :meth:`score` returns."""
        return "MSE" if self.kind == "regression" else "accuracy"

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric; it decides the sign of the task's share in delta m."""
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

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Accuracy in [0, 1], or the mean squared error.

        Args:
            output: ``(B, outputs)``.
            target: See ``kind``.

        Returns:
            A 0-d tensor.
        """
        if self.kind == "classes":
            return (output.argmax(dim=1) == target).float().mean()
        if self.kind == "binary":
            return ((output.squeeze(1) > 0) == (target > 0.5)).float().mean()
        return functional.mse_loss(output, target)

"""Hard sharing: one backbone below, one head per task on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .base import Criterion, MultiTaskModel

__all__ = ["SharedBottom"]


class SharedBottom(MultiTaskModel):
    """A backbone that all tasks share and a head for each of them.

    ``y_t = h_t(f(x))``. The backbone f runs once per batch, whatever the number of tasks. Where it
    should be shared in part only, see :class:`SharedBackbone`.

    Args:
        backbone: Any module that maps ``batch["input"]`` to features.
        heads: For each task a module that maps the features to the task's output.
        criteria: For each task a function ``(output, target) -> loss``, a 0-d tensor.

    Raises:
        ValueError: If there are no heads, or heads and criteria are not for the same tasks.

    Caruana, "Multitask Learning", Machine Learning 28, 1997.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = SharedBottom(
        ...     nn.Linear(3, 4),
        ...     {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)},
        ...     {"a": nn.functional.mse_loss, "b": nn.functional.cross_entropy},
        ... )
        >>> batch = {"input": torch.zeros(5, 3), "a": torch.zeros(5, 1), "b": torch.zeros(5).long()}
        >>> sorted(model.losses(batch))
        ['a', 'b']
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
    ) -> None:
        super().__init__(heads, criteria)
        self.backbone = backbone

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """The backbone's output, the same for all tasks."""
        return dict.fromkeys(tasks, self.backbone(input))

"""Hard sharing: one backbone below, one head per task on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

__all__ = ["SharedBottom"]


class SharedBottom(nn.Module):
    """A backbone that all tasks share and a head for each of them.

    The backbone runs once per batch, whatever the number of tasks. Which parameters are shared is
    not declared anywhere: :class:`mtl_ops.MultiTaskOptimizer` finds it in the graph.

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
        criteria: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("Parameter `heads` should name at least one task. Found no head.")
        if set(heads) != set(criteria):
            raise ValueError(
                "Parameters `heads` and `criteria` should name the same tasks. "
                f"Found `heads` for {sorted(heads)} and `criteria` for {sorted(criteria)}."
            )
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.criteria = dict(criteria)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the heads."""
        return tuple(self.heads)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        """Outputs of all tasks.

        Args:
            input: ``(B, ...)``, whatever the backbone takes.

        Returns:
            For each task the output of its head.
        """
        features = self.backbone(input)
        return {task: head(features) for task, head in self.heads.items()}

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses of all tasks, in the form that ``MultiTaskOptimizer.backward`` takes.

        Args:
            batch: ``"input"`` and, under each task's name, its target.

        Returns:
            For each task a 0-d tensor.

        Raises:
            ValueError: If the batch lacks the input or a task's target.
        """
        missing = [key for key in ("input", *self.tasks) if key not in batch]
        if missing:
            raise ValueError(
                f"Parameter `batch` should hold {['input', *self.tasks]}. "
                f"Found no {', '.join(repr(key) for key in missing)}."
            )
        outputs = self(batch["input"])
        return {task: self.criteria[task](outputs[task], batch[task]) for task in self.tasks}

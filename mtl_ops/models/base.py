"""What all models have in common: named heads, criteria, and losses by task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Criterion", "MultiTaskModel"]

#: ``(output, target) -> loss``, a 0-d tensor.
Criterion = Callable[[Any, Any], Tensor]


class MultiTaskModel(nn.Module, ABC):
    """Features for each task, a head on top of them, and a loss.

    A subclass says in :meth:`features` how the tasks' features are made, and what they share;
    everything else is here. Which parameters are shared is declared nowhere:
    :class:`mtl_ops.MultiTaskOptimizer` finds it in the graph.

    A batch is a dict with the key ``"input"`` and each task's target under the task's name. A task
    whose target is missing or ``None`` is absent from the batch. The input is one for all tasks
    (a tensor, or a tuple such as :class:`Sequences`), or, where each task has its own, a dict by task.

    Args:
        heads: For each task a module that maps the task's features to its output. Tasks may name
            the same module; they share it then.
        criteria: For each task a function ``(output, target) -> loss``, a 0-d tensor. Modules among
            them move with the model.

    Raises:
        ValueError: If there are no heads, a name cannot be a task's, or heads and criteria are not
            for the same tasks.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Scaled(MultiTaskModel):
        ...     def features(self, input, tasks):
        ...         return {task: 2 * input for task in tasks}
        >>> mse = nn.functional.mse_loss
        >>> model = Scaled({"a": nn.Linear(3, 1), "b": nn.Linear(3, 2)}, {"a": mse, "b": mse})
        >>> losses = model.losses({"input": torch.zeros(5, 3), "a": torch.zeros(5, 1)})
        >>> losses["a"].shape, losses["b"]
        (torch.Size([]), None)
        >>> own = {"a": torch.zeros(5, 3), "b": torch.zeros(7, 3)}
        >>> {task: len(output) for task, output in model(own).items()}
        {'a': 5, 'b': 7}
    """

    def __init__(self, heads: Mapping[str, nn.Module], criteria: Mapping[str, Criterion]) -> None:
        super().__init__()
        check_tasks("heads", heads)
        if set(heads) != set(criteria):
            raise ValueError(
                "Parameters `heads` and `criteria` should name the same tasks. "
                f"Found `heads` for {sorted(heads)} and `criteria` for {sorted(criteria)}."
            )
        self.heads = nn.ModuleDict(heads)
        self.criteria = dict(criteria)
        # Registered as well, so that weights of classes and the like follow the model to a device.
        self.criterion_modules = nn.ModuleDict(
            {task: each for task, each in criteria.items() if isinstance(each, nn.Module)}
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the heads."""
        return tuple(self.heads)

    @abstractmethod
    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """What the heads of some tasks take.

        Args:
            input: One input for all of these tasks.
            tasks: Those whose features are wanted.

        Returns:
            For each of these tasks its features.
        """

    def features_and_penalties(
        self, input: Any, tasks: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As :meth:`features`, and for some tasks a 0-d tensor that is added to the task's loss."""
        return self.features(input, tasks), {}

    def forward(self, input: Any, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Outputs by task.

        Args:
            input: One for all tasks, ``(B, ...)`` or whatever the features are made of; or a dict
                by task.
            tasks: Those whose outputs are wanted; ``None`` for all that have an input.

        Returns:
            For each of these tasks the output of its head.
        """
        chosen = self.tasks if tasks is None else tuple(tasks)
        if isinstance(input, Mapping) and tasks is None:
            chosen = tuple(task for task in chosen if task in input)
        return self._run(input, chosen)[0]

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """Losses of all tasks, in the form that ``MultiTaskOptimizer.backward`` takes.

        Only what the tasks that are present need is computed.

        Args:
            batch: ``"input"`` and, under each task's name, its target, if there is one.

        Returns:
            For each task a 0-d tensor, or ``None`` if its target, or its own input, is missing.

        Raises:
            ValueError: If the batch lacks the input, or the targets of all tasks.
        """
        present = self._present(batch)
        outputs, penalties = self._run(batch["input"], present)
        losses: dict[str, Tensor | None] = dict.fromkeys(self.tasks)
        for task in present:
            loss = self.criteria[task](outputs[task], batch[task])
            losses[task] = loss + penalties[task] if task in penalties else loss
        return losses

    def _present(self, batch: Mapping[str, Any]) -> tuple[str, ...]:
        """The tasks that have an input and a target."""
        if "input" not in batch:
            raise ValueError(f"Parameter `batch` should hold 'input'. Found {sorted(batch)}.")
        present = [task for task in self.tasks if batch.get(task) is not None]
        if isinstance(batch["input"], Mapping):
            present = [task for task in present if batch["input"].get(task) is not None]
        if not present:
            raise ValueError(
                f"Parameter `batch` should hold a target of at least one of {list(self.tasks)}, "
                f"and its input. Found {sorted(batch)}."
            )
        return tuple(present)

    def _run(self, input: Any, tasks: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Outputs and penalties; with own inputs each task goes through the model alone."""
        if not isinstance(input, Mapping):
            features, penalties = self.features_and_penalties(input, tasks)
            return {task: self.heads[task](features[task]) for task in tasks}, penalties
        outputs: dict[str, Any] = {}
        penalties = {}
        for task in tasks:
            features, penalty = self.features_and_penalties(input[task], (task,))
            outputs[task] = self.heads[task](features[task])
            penalties.update(penalty)
        return outputs, penalties


def check_tasks(parameter: str, named: Mapping[str, object]) -> None:
    """Refuses names that cannot be those of tasks.

    Raises:
        ValueError: If there is none, or one is a key of batches or no name for a submodule.
    """
    if not named:
        raise ValueError(f"Parameter `{parameter}` should name at least one task. Found none.")
    for name in named:
        if not name or "." in name or name == "input" or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"Parameter `{parameter}` should name tasks without a dot, and not as 'input' or a "
                f"member of nn.ModuleDict. Found {name!r}."
            )

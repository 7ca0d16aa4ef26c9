"""Batches of one data set with several tasks, or of several data sets with a task each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .task import Batch

__all__ = ["Loader", "move"]


class Loader:
    """Whole batches in a new order in each epoch.

    The data are one set on which all tasks are labelled, ``{"input": ..., task: target, ...}``, or
    for each task a set of its own, ``{task: {"input": ..., task: target}, ...}``. In the latter
    case an epoch goes once through the largest set, the batches of the others are spread evenly
    over it, and so *tasks are missing from some batches*; all are there in the first. An incomplete
    batch at the end is left out, unless it is the only one: a batch of three examples would have
    a say as loud as one of 64.

    Args:
        data: See above. Leaves are tensors, or tuples of tensors, with the examples in the first
            dimension.
        batch_size: Examples of each set in a batch.
        tasks: Whose sets are wanted; ``None`` for all.

    Raises:
        ValueError: If ``batch_size`` is not positive, or a set is empty.

    Example:
        >>> import torch
        >>> own = {"a": {"input": torch.zeros(9, 2), "a": torch.zeros(9)},
        ...        "b": {"input": torch.zeros(4, 5), "b": torch.zeros(4)}}
        >>> loader = Loader(own, batch_size=3)
        >>> [sorted(batch["input"]) for batch in loader.epoch(torch.Generator())]
        [['a', 'b'], ['a'], ['a']]
    """

    def __init__(
        self, data: Mapping[str, Any], batch_size: int, tasks: Sequence[str] | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(
                f"Parameter `batch_size` should be positive. Found `batch_size = {batch_size}`."
            )
        self.joint = "input" in data
        self.sets: dict[str, Batch] = (
            {"": dict(data)}
            if self.joint
            else {task: dict(own) for task, own in data.items() if tasks is None or task in tasks}
        )
        self.batch_size = batch_size
        self.sizes = {name: length(own["input"]) for name, own in self.sets.items()}
        if not self.sizes or min(self.sizes.values()) == 0:
            raise ValueError(f"Parameter `data` should hold examples. Found {self.sizes}.")

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return max(self._count(name) for name in self.sets)

    def epoch(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches of one epoch, in an order drawn from the generator."""
        orders = {name: self._order(name, generator) for name in self.sets}
        for step in range(self.steps):
            rows = {}
            for name, order in orders.items():
                place = -(-step * len(order) // self.steps)
                # The first step at which this set is due for its batch number `place`.
                if place < len(order) and place * self.steps // len(order) == step:
                    rows[name] = order[place]
            yield self._batch(rows)

    def parts(self, size: int = 256) -> Iterator[Batch]:
        """All examples once, in their order, ``size`` of a set at a time."""
        for name, count in self.sizes.items():
            for start in range(0, count, size):
                yield self._batch({name: torch.arange(start, min(start + size, count))})

    def _count(self, name: str) -> int:
        return max(1, self.sizes[name] // self.batch_size)

    def _order(self, name: str, generator: torch.Generator) -> Sequence[Tensor]:
        """Rows of each batch of a set."""
        order = torch.randperm(self.sizes[name], generator=generator)
        size = min(self.batch_size, len(order))
        return order[: self._count(name) * size].view(-1, size).unbind()

    def _batch(self, rows: Mapping[str, Tensor]) -> Batch:
        taken = {
            name: {key: take(value, index) for key, value in self.sets[name].items()}
            for name, index in rows.items()
        }
        if self.joint:
            return taken[""]
        batch: Batch = {"input": {name: own.pop("input") for name, own in taken.items()}}
        for own in taken.values():
            batch.update(own)
        return batch


def length(value: Any) -> int:
    """Number of examples in a tensor, or a tuple of tensors."""
    return len(value) if isinstance(value, Tensor) else length(value[0])


def take(value: Any, rows: Tensor) -> Any:
    """Some examples of a tensor, or a tuple of tensors."""
    if isinstance(value, Tensor):
        return value[rows.to(value.device)]
    return _rebuild(value, [take(part, rows) for part in value])


def move(value: Any, device: str) -> Any:
    """All tensors in dicts and tuples, on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move(part, device) for key, part in value.items()}
    return _rebuild(value, [move(part, device) for part in value])


def _rebuild(like: Any, parts: list[Any]) -> Any:
    """A tuple, or a named tuple, of the same kind."""
    kind = type(like)
    return kind(*parts) if hasattr(like, "_fields") else kind(parts)

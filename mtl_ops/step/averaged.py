"""A step of momentum before the merge: only some tasks are differentiated, and the averages of all are merged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..gradients.accumulation import Accumulated
from ..gradients.differentiate import differentiate
from ..gradients.source import PLAIN, Source
from ..gradients.tasks import Tasks
from ..merging.averaged import merge_averages
from ..merging.call import Call
from ..merging.report import Report
from ..merging.sink import GRADS, Sink
from .exact import Exact
from .step import finish

__all__ = ["Averaged", "Fresh", "FreshOrder", "FreshTasks"]

#: How many tasks are fresh in a step, or a function of the number of steps taken that returns which.
FreshTasks = int | Callable[[int], Sequence[str | int]]

#: Which tasks are fresh when.
FreshOrder = Literal["round_robin", "random"]


@dataclass(frozen=True)
class Fresh:
    """Which tasks are differentiated in a step.

    Attributes:
        tasks: How many, or which.
        order: Which those are if their number is given.
    """

    tasks: FreshTasks
    order: FreshOrder = "round_robin"

    def of(self, call: Call) -> Tasks:
        """The tasks of a call without the losses of the others.

        Raises:
            TypeError: If a function of the user answers with no sequence.
            ValueError: If it names no task, or none that is there.
        """
        weights, losses = call.task_weights, call.tasks.losses
        there = [t for t in call.tasks.present if weights[t]] or call.tasks.present
        if callable(self.tasks):
            chosen = self._asked(call)
            if not chosen & set(there):
                raise ValueError(
                    f"Parameter `fresh` should answer with a task that is there. Found {sorted(chosen)} in step "
                    f"{call.step}, of tasks {there} that are."
                )
        else:
            ring = [t for t in self._order(call, self.tasks) if t in there]
            chosen = set(ring[: self.tasks])
        kept = tuple(loss if t in chosen else None for t, loss in enumerate(losses))
        return replace(call.tasks, losses=kept)

    def _order(self, call: Call, count: int) -> list[int]:
        """All tasks, the first ones first; the same seed and step, the same order."""
        tasks = len(call.tasks.losses)
        if self.order == "round_robin":
            return [(call.step * count + t) % tasks for t in range(tasks)]
        drawn = call.method.generator
        seed = torch.initial_seed() if drawn is None else drawn.initial_seed()
        generator = torch.Generator().manual_seed((seed + call.step) % 2**63)
        return list(torch.randperm(tasks, generator=generator).tolist())

    def _asked(self, call: Call) -> set[int]:
        assert callable(self.tasks)
        answer = self.tasks(call.step)
        if isinstance(answer, str) or not isinstance(answer, Sequence):
            raise TypeError(
                "Parameter `fresh` should answer with a sequence of tasks. "
                f"Found {type(answer).__name__}."
            )
        names, count = call.tasks.names, len(call.tasks.losses)
        listed: Sequence[str | int] = range(count) if names is None else names
        known = {task: t for t, task in enumerate(listed)}
        for task in answer:
            if task not in known:
                raise ValueError(
                    f"Parameter `fresh` should answer with tasks out of {list(known)}. Found {task!r}."
                )
        return {known[task] for task in answer}


class Averaged(Exact):
    """Differentiates the fresh tasks, moves their averages and merges those of all tasks.

    Args:
        source: Where gradients come from.
        sink: Where the merged gradient lands.
        fresh: Which tasks are fresh; ``None`` for all that are there.
    """

    def __init__(
        self, source: Source = PLAIN, sink: Sink = GRADS, fresh: Fresh | None = None
    ) -> None:
        super().__init__(source, sink)
        self.fresh = fresh

    def backward(self, call: Call) -> Report:
        """Differentiates some losses, and merges the averages to ``.grad``."""
        some, params, sums = self._some(call), call.params.tensors, self.take_sums()
        shown = call.tasks
        if sums is None:
            rows = differentiate(some.tasks, params, call.retain_graph, source=self.source)
        else:
            rows, losses = self._added(some, some.tasks, sums)
            some = replace(some, tasks=some.tasks.summed(losses))
            shown = some.tasks

        def merged() -> list[Tensor | None]:
            return [param.grad for param in params]

        known = functools.partial(getattr, shown, "values")
        report = finish(some, merge_averages(some, known, rows, merged, self.sink.merge))
        report._losses = shown.detached
        return report

    def accumulate(self, call: Call) -> None:
        """Holds the sums of the gradients of the fresh tasks, which are the same in all micro-batches."""
        some, sums = self._some(call), self.take_sums() or Accumulated()
        self._added(some, some.tasks, sums)
        self.sums = sums  # not before: a part of it may have been added

    def _some(self, call: Call) -> Call:
        """The call with the losses of the fresh tasks alone, without those of weight 0."""
        tasks = call.tasks if self.fresh is None else self.fresh.of(call)
        kept = tuple(
            loss if weight else None
            for loss, weight in zip(tasks.losses, call.task_weights, strict=True)
        )
        some = any(loss is not None for loss in kept)
        return replace(call, tasks=replace(tasks, losses=kept) if some else tasks)

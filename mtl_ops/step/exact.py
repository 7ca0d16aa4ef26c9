"""The exact step: a backward a task, and one merge of their gradients."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..gradients.accumulation import Accumulated
from ..gradients.differentiate import differentiate, task_gradients
from ..gradients.tasks import Tasks
from ..merging.call import Call
from ..merging.report import Report
from .step import Step, as_sparse, finish

__all__ = ["BesideExact", "Exact", "weighty"]


class Exact(Step):
    """Holds the gradients of all tasks, measures and merges them."""

    def backward(self, call: Call) -> Report:
        """Differentiates each loss, merges and adds to ``.grad``."""
        params, sums = call.params.tensors, self.take_sums()
        if sums is None:
            early = self.sink.expect(call)
            each = None if early is None else early.launch
            source = as_sparse(self.source, self.sink, call)
            rows = differentiate(weighty(call), params, call.retain_graph, each, source)
            return finish(call, self.sink.merge(call, rows, early))
        rows, losses = self._added(call, weighty(call), sums)
        call = replace(call, tasks=call.tasks.summed(losses))
        return finish(call, self.sink.merge(call, rows))

    def accumulate(self, call: Call) -> None:
        """Holds the sums of each task's gradients."""
        sums = self.take_sums() or Accumulated()
        self._added(call, call.tasks, sums)
        self.sums = sums  # not before: a part of it may have been added

    def _added(
        self, call: Call, tasks: Tasks, sums: Accumulated
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        params, keep = call.params.tensors, call.retain_graph
        gradients = task_gradients(tasks, params, keep, as_sparse(self.source, self.sink, call))
        return sums.add(gradients, call.tasks.detached)


class BesideExact(Step):
    """A step that leaves micro-batches to an exact one, which holds the gradients of all tasks."""

    def __init__(self, exact: Exact) -> None:
        super().__init__(exact.source, exact.sink)
        self.exact = exact

    def accumulate(self, call: Call) -> None:
        """Holds the sums of each task's gradients."""
        self.exact.sums = self.take_sums()
        self.exact.accumulate(call)
        self.sums = self.exact.take_sums()


def weighty(call: Call) -> Tasks:
    """The tasks without those of weight 0, which take no part, and are not worth a backward."""
    tasks, task_weights = call.tasks, call.task_weights
    if all(task_weights):
        return tasks
    kept = [
        loss if weight else None for loss, weight in zip(tasks.losses, task_weights, strict=True)
    ]
    some = any(loss is not None for loss in kept)
    return replace(tasks, losses=tuple(kept)) if some else tasks

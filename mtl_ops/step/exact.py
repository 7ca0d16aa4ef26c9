"""The exact step: a backward a task, and one merge of their gradients."""

from __future__ import annotations

from dataclasses import replace

from ..gradients.accumulation import Accumulated
from ..gradients.differentiate import differentiate, task_gradients
from ..gradients.tasks import Tasks
from ..merging.call import Call
from ..merging.report import Report
from .sink import add_to_grads, merge_into_grads
from .streamed import merge_streamed
from .weighted_sum import one_backward

__all__ = ["fill_grads"]


def fill_grads(call: Call, accumulated: Accumulated | None = None) -> Report:
    """Differentiates the losses, merges the gradients and adds the result to ``.grad``.

    Args:
        call: What is asked for.
        accumulated: Gradients of other micro-batches, to be added before they are merged.
    """
    method, tasks = call.method, call.tasks
    losses = call.shown_losses
    if method.needs == "losses" and not call.rules.per_task and accumulated is None:
        losses = call.losses
        report = one_backward(call)
    else:
        part = _weighty(call)
        if tasks.streamed and len(part.present) > 1:
            report, merged = merge_streamed(replace(call, tasks=part))
            add_to_grads(merged, call.params.tensors)
        elif accumulated is None:
            early = None if tasks.parallel is None else tasks.parallel.expect(call)
            each = None if early is None else early.launch
            rows = differentiate(part, call.params.tensors, call.retain_graph, each)
            report = merge_into_grads(call, rows, early)
        else:
            gradients = task_gradients(part, call.params.tensors, call.retain_graph)
            rows, totals = accumulated.add(gradients, tasks.detached)
            tasks = tasks.summed(totals)
            call = replace(call, tasks=tasks)
            losses = call.shown_losses
            report = merge_into_grads(call, rows)
    if method.learns and losses is not None:
        method.add_grads(losses, tasks.scale)
    report._losses = tasks.detached
    return report


def _weighty(call: Call) -> Tasks:
    """Without tasks of weight 0: they take no part, and are not worth a backward."""
    tasks, task_weights = call.tasks, call.task_weights
    if all(task_weights):
        return tasks
    kept = [
        loss if weight else None for loss, weight in zip(tasks.losses, task_weights, strict=True)
    ]
    some = any(loss is not None for loss in kept)
    return replace(tasks, losses=tuple(kept)) if some else tasks

"""One backward of a multi-task step: losses to ``.grad``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..gradients.accumulation import Accumulated
from ..gradients.differentiate import differentiate, task_gradients
from ..gradients.tasks import Tasks
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from .sink import add_to_grads, merge_into_grads
from .streamed import merge_streamed
from .weighted_sum import one_backward, present_weights, taking_part

__all__ = ["fill_grads"]


def fill_grads(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    task_weights: Sequence[float],
    rules: Rules,
    *,
    sets: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
    given: Mapping[str, Any] | None = None,
    times_skipped: Tensor | None = None,
    retain_graph: bool = False,
    accumulated: Accumulated | None = None,
) -> Report:
    """Differentiates the losses, merges the gradients and adds the result to ``.grad``.

    Args:
        method: What weighs the tasks.
        tasks: The losses.
        params: P parameters that require a gradient.
        task_weights: T numbers.
        rules: Clipping, and what to do about gradients that are not finite.
        sets: For each parameter, in which set it is merged if it is shared; ``None`` for one set.
        shared: For each parameter whether it is shared; ``None`` to find out.
        given: What the method otherwise draws or remembers.
        times_skipped: ``(T,)`` int64, counts gradients that are not finite.
        retain_graph: Keeps the graph for another backward.
        accumulated: Gradients of other micro-batches, to be added before they are merged.
    """
    losses: Tensor | None = None
    if method.needs == "losses" and not rules.per_task and accumulated is None:
        weights = present_weights(task_weights, tasks)
        losses = taking_part(tasks, weights)
        report = one_backward(method, tasks, params, weights, losses, rules, given, retain_graph)
    else:
        part, weights = _weighty(tasks, task_weights), present_weights(task_weights, tasks)
        rest: dict[str, Any] = {
            "sets": sets,
            "shared": shared,
            "given": given,
            "times_skipped": times_skipped,
        }
        if tasks.streamed and len(part.present) > 1:
            losses = taking_part(tasks, weights) if method.uses_losses else None
            report, merged = merge_streamed(
                method,
                part,
                params,
                weights,
                rules,
                losses=losses,
                retain_graph=retain_graph,
                **rest,
            )
            add_to_grads(merged, params)
        else:
            early = None
            if tasks.parallel is not None and accumulated is None:
                early = tasks.parallel.expect(params, weights)
            each = None if early is None else early.launch
            if accumulated is None:
                rows = differentiate(part, params, retain_graph, each)
            else:
                gradients = task_gradients(part, params, retain_graph)
                rows, totals = accumulated.add(gradients, tasks.detached)
                tasks = tasks.summed(totals)
                weights = present_weights(task_weights, tasks)
            losses = taking_part(tasks, weights) if method.uses_losses else None
            report = merge_into_grads(
                method,
                rows,
                params,
                weights,
                rules,
                losses=losses,
                names=tasks.names,
                grad_scale=tasks.scale,
                parallel=tasks.parallel,
                early=early,
                **rest,
            )
    if method.learns and losses is not None:
        method.add_grads(losses, tasks.scale)
    report._losses = tasks.detached
    return report


def _weighty(tasks: Tasks, task_weights: Sequence[float]) -> Tasks:
    """Without tasks of weight 0: they take no part, and are not worth a backward."""
    if all(task_weights):
        return tasks
    kept = [
        loss if weight else None for loss, weight in zip(tasks.losses, task_weights, strict=True)
    ]
    some = any(loss is not None for loss in kept)
    return replace(tasks, losses=tuple(kept)) if some else tasks

"""One backward of a multi-task step: losses to ``.grad``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .accumulation import Accumulated
from .distributed import Processes, Scatter
from .gradients import Tasks, differentiate, joint_backward, joint_gradient, task_gradients
from .layout import NOTHING_REACHED, find_layout
from .merging import columns, dtypes_of, merge_rows, on_device
from .methods import Method
from .methods.linear import Sum
from .report import Report
from .rules import Rules
from .streaming import merge_streamed

__all__ = ["WEIGHTED_SUM", "fill_grads", "merge_into_grads", "present_weights"]

#: How messages call the gradient that all tasks have a part in.
WEIGHTED_SUM = "weighted sum of all"


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
        losses = _taking_part(tasks, weights)
        report = _one_backward(method, tasks, params, weights, losses, rules, given, retain_graph)
    else:
        part, weights = _weighty(tasks, task_weights), present_weights(task_weights, tasks)
        rest: dict[str, Any] = {
            "sets": sets,
            "shared": shared,
            "given": given,
            "times_skipped": times_skipped,
        }
        if tasks.streamed and len(part.present) > 1:
            losses = _taking_part(tasks, weights) if method.uses_losses else None
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
            _add_to_grads(merged, params)
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
            losses = _taking_part(tasks, weights) if method.uses_losses else None
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


def _taking_part(tasks: Tasks, weights: Sequence[float]) -> Tensor:
    """``(T,)`` float64, the losses; NaN for a task that takes no part."""
    values = tasks.values
    if all(weights[t] for t in tasks.taking_part):
        return values
    return torch.where(on_device(weights, values.device) != 0, values, torch.nan)


def present_weights(task_weights: Sequence[float], tasks: Tasks) -> list[float]:
    """The weights of the tasks that are there; 0 for those that are absent."""
    part = set(tasks.taking_part)
    return [weight if t in part else 0.0 for t, weight in enumerate(task_weights)]


def merge_into_grads(
    method: Method,
    rows: list[Tensor | None],
    params: Sequence[Tensor],
    weights: Sequence[float],
    rules: Rules,
    *,
    sets: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
    parallel: Processes | None = None,
    early: Scatter | None = None,
    **rest: Any,
) -> Report:
    """Merges ``T × P`` gradients and adds the result to ``.grad``; see :func:`merge_rows`.

    The list of gradients is emptied, to free them before what was merged is converted.
    """
    if parallel is not None:
        report, merged = parallel.merge(
            method, rows, params, weights, rules, sets=sets, shared=shared, early=early, **rest
        )
        _add_to_grads(merged, params)
        return report
    given = rows
    layout = find_layout(rows, len(weights), sets, shared)
    reached: Sequence[Tensor] = params
    if layout.kept is not None:
        reached = [params[p] for p in layout.kept]
        rows = columns(rows, len(params), layout.kept)
    if not reached:
        raise ValueError(NOTHING_REACHED)
    dtypes = dtypes_of(rows, reached)
    as_stored = all(param.dtype == dtype for param, dtype in zip(reached, dtypes, strict=True))
    accumulate = as_stored and any(param.grad is not None for param in reached)
    if accumulate:
        out = [torch.zeros_like(p) if p.grad is None else p.grad for p in reached]
    else:
        out = [torch.empty_like(p, dtype=dtype) for p, dtype in zip(reached, dtypes, strict=True)]
    report = merge_rows(method, rows, out, weights, layout, rules, accumulate=accumulate, **rest)
    rows.clear()
    given.clear()
    if as_stored:
        for param, gradient in zip(reached, out, strict=True):
            param.grad = gradient
    else:
        _add_to_grads(dict(enumerate(out)), reached)
    return report


def _add_to_grads(merged: dict[int, Tensor], params: Sequence[Tensor]) -> None:
    """Adds gradients, by place and of any dtype, to ``.grad``; frees each before the next is converted."""
    for place in list(merged):
        param, gradient = params[place], merged.pop(place)
        if param.grad is None:
            param.grad = gradient.to(param.dtype)
        else:
            param.grad.add_(gradient)


def _one_backward(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    weights: Sequence[float],
    losses: Tensor,
    rules: Rules,
    given: Mapping[str, Any] | None,
    retain_graph: bool,
) -> Report:
    """The gradient of the weighted sum; a task whose loss is not finite gets the weight 0.

    There is no gradient of a single task, so only the sum can be checked and clipped: as the one
    row of a problem with one task.
    """
    factors = on_device(weights, losses.device)
    part = losses.isfinite()
    w = torch.where(part, factors * method.weights(None, losses, **given or {}), 0.0)
    clip_scale = joint = None
    unchecked = rules.max_norm is None and rules.nonfinite in ("propagate", "skip_task")
    if unchecked and tasks.parallel is None:
        joint_backward(tasks, w, params, retain_graph)
        if rules.nonfinite == "skip_task":
            joint = torch.where(part.any(), w, torch.nan)
    else:
        rows = joint_gradient(tasks, w, params, retain_graph)
        report = merge_into_grads(
            Sum(),
            rows,
            params,
            [1.0],
            rules,
            names=(WEIGHTED_SUM,),
            grad_scale=tasks.scale,
            parallel=tasks.parallel,
        )
        clip_scale, joint = report.clip_scale, report._gram
    return Report(names=tasks.names, weights=w.unsqueeze(0), clip_scale=clip_scale, _joint=joint)

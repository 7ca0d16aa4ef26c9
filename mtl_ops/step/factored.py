"""The exact step without the gradients of single tasks: by factors, where the model is products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients.factored.by_sample import BySample
from ..gradients.factored.factors import TaskFactors
from ..gradients.factored.find import Factoring
from ..gradients.factored.samples import SampleFactors
from ..gradients.rows import unscaled
from ..gradients.tasks import Tasks
from ..merging.layout import NOTHING_REACHED, Layout, find_layout
from ..merging.merge import find_scale, find_weights, report_of
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from .exact import fill_grads, weighty
from .sink import add_to_grads
from .weighted_sum import present_weights, taking_part

__all__ = ["factored_step", "reason_against_factors"]


def factored_step(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    task_weights: Sequence[float],
    rules: Rules,
    *,
    factoring: Factoring | BySample,
    sets: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
    given: Mapping[str, Any] | None = None,
    times_skipped: Tensor | None = None,
    retain_graph: bool = False,
) -> Report:
    """Differentiates the losses, merges the gradients and adds the result to ``.grad``.

    As :func:`mtl_ops.step.exact.fill_grads`, which takes the step where factors do not help.

    Args:
        method: What weighs the tasks.
        tasks: The losses.
        params: P parameters that require a gradient.
        task_weights: T numbers.
        rules: Clipping, and what to do about gradients that are not finite.
        factoring: What decides, and remembers from step to step.
        sets: For each parameter, in which set it is merged if it is shared; ``None`` for one set.
        shared: For each parameter whether it is shared; ``None`` to find out.
        given: What the method otherwise draws or remembers.
        times_skipped: ``(T,)`` int64, counts gradients that are not finite.
        retain_graph: Keeps the graph for another backward.

    Raises:
        ValueError: If the gradients of single tasks are needed as such, unless factors are only one choice of two.
        RuntimeError: If the graph of a loss was freed by an earlier backward, or as the rules say.
    """
    against = reason_against_factors(method, rules, tasks)
    if against is not None and factoring.choice != "auto":
        raise ValueError(against)
    only_losses = method.needs == "losses" and not rules.per_task
    factors: TaskFactors | SampleFactors | None = None
    if against is None and not only_losses:
        factors = factoring.factors(weighty(tasks, task_weights), params, retain_graph)
    if factors is None:
        return fill_grads(
            method,
            tasks,
            params,
            task_weights,
            rules,
            sets=sets,
            shared=shared,
            given=given,
            times_skipped=times_skipped,
            retain_graph=retain_graph,
        )
    weights = present_weights(task_weights, tasks)
    losses = taking_part(tasks, weights) if method.uses_losses else None
    layout = find_layout(factors.reached, len(weights), sets, shared)
    kept = range(len(params)) if layout.kept is None else layout.kept
    if not kept:
        raise ValueError(NOTHING_REACHED)
    gram = unscaled(factors.gram(layout), tasks.scale)
    scale = find_scale(gram, weights, layout, rules, times_skipped, tasks.names)
    found = find_weights(method, gram, scale, losses, layout.shared, given or {})

    clipped = None if rules.max_norm is None else gram
    clip = _merge_into_grads(
        factors, [params[p] for p in kept], found, layout, clipped, rules.max_norm
    )
    clip_scale = None if clipped is None else clip
    report = report_of(layout, weights, gram, scale, found, clip_scale, times_skipped, tasks.names)
    if method.learns and losses is not None:
        method.add_grads(losses, tasks.scale)
    report._losses = tasks.detached
    return report


def _merge_into_grads(
    factors: TaskFactors | SampleFactors,
    params: Sequence[Tensor],
    weights: Tensor,
    layout: Layout,
    gram: Tensor | None,
    max_norm: float | None,
) -> Tensor:
    """Adds the merged gradient of the kept parameters to ``.grad``; returns the clip factor."""
    dtypes = factors.dtypes(params, layout)
    as_stored = all(param.dtype == dtype for param, dtype in zip(params, dtypes, strict=True))
    accumulate = as_stored and any(param.grad is not None for param in params)
    if accumulate:
        out = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    else:
        out = [torch.empty_like(p, dtype=dtype) for p, dtype in zip(params, dtypes, strict=True)]
    clip = factors.merge_(out, weights, layout, gram, max_norm, accumulate)
    factors.clear()
    if as_stored:
        for param, gradient in zip(params, out, strict=True):
            param.grad = gradient
    else:
        add_to_grads(dict(enumerate(out)), params)
    return clip


def reason_against_factors(method: Method, rules: Rules, tasks: Tasks | None = None) -> str | None:
    """Why the gradients of single tasks are needed; ``None`` if they are not."""
    found = None
    if method.needs == "coordinates":
        found = f"method {method.name!r}, which looks at single coordinates"
    elif method.tracks:
        found = f"method {method.name!r}, which remembers gradients"
    elif rules.clip_value is not None:
        found = f"`clip_value = {rules.clip_value}`, which clamps their elements"
    elif tasks is not None and tasks.parallel is not None:
        found = "several processes, which sum them"
    elif tasks is not None and tasks.dtype is not None:
        found = f"`grad_dtype = {tasks.dtype}`, in which they are stored"
    elif tasks is not None and tasks.streamed:
        found = '`memory = "stream"`, which frees them piece by piece'
    if found is None:
        return None
    return (
        'Parameter `gradients` should be "dense" where the gradient of each task is needed by itself. '
        f"Found {found}."
    )

"""From per-task gradients to the merged gradient: measure, weigh, merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..gradients.rows import measured_rows, on_device, unscaled
from ..methods import CoordinateMethod, Method, TrackingMethod
from .coordinates import merge_coordinates
from .layout import Layout
from .report import Report
from .rules import Rules
from .tracked import Problem, show

__all__ = [
    "find_scale",
    "find_weights",
    "merge_rows",
    "raise_if_nonfinite",
    "report_of",
]


def merge_rows(
    method: Method,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    task_weights: Sequence[float],
    layout: Layout,
    rules: Rules,
    *,
    losses: Tensor | None = None,
    given: Mapping[str, Any] | None = None,
    accumulate: bool = False,
    times_skipped: Tensor | None = None,
    names: tuple[str, ...] | None = None,
    grad_scale: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
    measured: Sequence[bool] | None = None,
    first: Sequence[int] | None = None,
) -> Report:
    """Writes the merged gradient of the parameters that the layout keeps.

    Args:
        method: What weighs the tasks.
        rows: ``T × P`` gradients.
        out: P tensors to write to, of the gradients' shapes and dtypes.
        task_weights: T numbers; 0 for a task that takes no part.
        layout: Of the P parameters.
        rules: Clipping, and what to do about gradients that are not finite.
        losses: ``(T,)``, for methods that look at them.
        given: What the method otherwise draws or remembers.
        accumulate: Adds to ``out``.
        times_skipped: ``(T,)`` int64, counts gradients that are not finite.
        names: The tasks' names, for messages.
        grad_scale: A 0-d factor that all gradients were multiplied by. What is measured, and so
            every threshold, is without it; the merged gradient is with it.
        total: Sums what is measured over processes that have a part of the elements each.
        measured: For each kept parameter whether it is measured here: of processes with the same part,
            one does. ``None`` for all.
        first: For methods that draw: the number of each kept parameter's first element among the
            elements of all shared parameters. ``None`` if they follow one another from 0.

    Raises:
        RuntimeError: If a gradient is not finite and the rules say ``"raise"``.
    """
    tasks = len(task_weights)
    gram = None
    if method.needs == "gram" or rules != Rules() or times_skipped is not None:
        seen = rows if measured is None else measured_rows(rows, measured)
        gram = unscaled(ops.gram(seen, tasks, layout.segments, rules.clip_value), grad_scale)
        if total is not None:
            missing = layout.total - len(gram)  # last segments of which there is nothing here
            gram = total(torch.nn.functional.pad(gram, (0, 0, 0, 0, 0, missing)))
        scale = find_scale(gram, task_weights, layout, rules, times_skipped, names)
    else:
        scale = on_device(layout.factors(task_weights), out[0].device).reshape(-1, tasks)
    if isinstance(method, CoordinateMethod):
        weights = None
        clip_scale = merge_coordinates(
            method,
            rows,
            out,
            gram,
            scale,
            layout,
            rules,
            given or {},
            accumulate,
            total,
            measured,
            first,
        )
    else:
        problem = Problem(rows, gram, scale, rules.clip_value)
        if isinstance(method, TrackingMethod) and method.tracks and layout.shared > 0:
            problem = show(method, problem, losses, layout, grad_scale, alone=total is None)
        weights = find_weights(
            method, problem.gram, problem.scale, losses, layout.shared, given or {}
        )
        clip_scale = ops.merge_(
            out,
            problem.rows,
            *problem.scaled(weights, rules.max_norm is not None),
            layout.segments,
            rules.max_norm,
            problem.clip_value,
            accumulate,
        )
    clipped = clip_scale if rules.max_norm is not None else None
    return report_of(layout, task_weights, gram, scale, weights, clipped, times_skipped, names)


def report_of(
    layout: Layout,
    task_weights: Sequence[float],
    gram: Tensor | None,
    scale: Tensor,
    weights: Tensor | None,
    clip_scale: Tensor | None,
    times_skipped: Tensor | None,
    names: tuple[str, ...] | None,
) -> Report:
    """What was measured and decided, of all segments; see :class:`Report`."""
    if weights is not None and layout.shared:
        weights = weights[: layout.shared]
    return Report(
        names=names,
        weights=weights,
        clip_scale=clip_scale,
        times_skipped=times_skipped,
        _gram=gram,
        _scale=scale,
        _shared=layout.shared,
        _part=tuple(factor != 0.0 for factor in layout.factors(task_weights)),
    )


def find_scale(
    gram: Tensor,
    task_weights: Sequence[float],
    layout: Layout,
    rules: Rules,
    times_skipped: Tensor | None = None,
    names: tuple[str, ...] | None = None,
) -> Tensor:
    """``(total, T)`` float64, the factors of the gradients; arguments as of :func:`merge_rows`."""
    factors = layout.factors(task_weights)
    if rules.nonfinite == "raise":
        raise_if_nonfinite(gram, factors, names)
    skip = rules.nonfinite == "skip_task"
    return ops.task_scales(gram, factors, rules.max_task_norm, skip, times_skipped)


def find_weights(
    method: Method,
    gram: Tensor | None,
    scale: Tensor,
    losses: Tensor | None,
    shared: int,
    given: Mapping[str, Any],
) -> Tensor:
    """``(total, T)``: the method's answer in the shared segments, what it scales heads with in the last one."""
    if method.needs == "losses":
        if losses is None and not method.uses_losses:
            losses = torch.zeros_like(scale[0])
        if losses is not None:
            losses = torch.where((scale != 0).any(dim=0), losses.to(scale.device), torch.nan)
        weights = method.weights(None, losses, **given)
        return torch.where(scale != 0, scale * weights.to(scale.device), 0.0)
    if shared == len(scale):
        return method.solve(gram, scale, losses, **given)  # type: ignore[arg-type]
    if shared == 0:
        return method.scale_heads(scale, losses)
    solved = method.solve(gram[:shared], scale[:shared], losses, **given)  # type: ignore[index]
    return torch.cat([solved, method.scale_heads(scale[shared:], losses)])


def raise_if_nonfinite(
    gram: Tensor, factors: Sequence[float], names: tuple[str, ...] | None
) -> None:
    """The one place that waits for the device, because the user asked for an error."""
    diagonal = gram.diagonal(dim1=1, dim2=2).tolist()
    for segment, squares in enumerate(diagonal):
        for t, square in enumerate(squares):
            if factors[segment * len(squares) + t] != 0.0 and not abs(square) < float("inf"):
                raise RuntimeError(
                    f"The gradient of loss {names[t] if names else t!r} is not finite "
                    "(`nonfinite = 'raise'`)."
                )

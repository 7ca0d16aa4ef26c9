"""Averages of the gradients instead of the gradients of a step: moved, then merged as rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .. import ops
from ..gradients.layout import NOTHING_REACHED
from ..gradients.rows import dtypes_of, unscaled
from ..methods import Momentum
from ..methods.momentum import Averages
from .call import Call
from .merge import raise_if_nonfinite
from .report import Report
from .rules import Rules
from .scaled_clip import clip_elements, with_scaled_threshold

__all__ = ["merge_averages"]


def merge_averages(
    call: Call,
    values: Callable[[], Tensor | None],
    rows: list[Tensor | None],
    targets: Callable[[], Sequence[Tensor | None]],
    merge: Callable[[Call, list[Tensor | None]], Report],
) -> Report:
    """Moves the averages of the fresh tasks and merges those of all.

    Args:
        call: With the method :class:`mtl_ops.methods.Momentum`, and the losses of the fresh tasks.
        values: The losses of all tasks, ``(T,)``, NaN where there is none; ``None`` if nobody has any.
        rows: ``T × P`` gradients of the fresh tasks; the list is emptied.
        targets: What was merged, for each of the P parameters, once it was.
        merge: Merges rows as an ordinary call says.

    Raises:
        ValueError: If no fresh task reaches any parameter.
        RuntimeError: If a gradient is not finite and the rules say ``"raise"``.
    """
    method, rules = call.method, call.rules
    assert isinstance(method, Momentum)
    if all(row is None for row in rows):
        raise ValueError(NOTHING_REACHED)
    dtypes_of(rows, call.params.tensors)  # refuses what the kernels cannot read
    fresh = [weight != 0.0 for weight in call.weights]
    squares, factors, usable = _factors(call, rows)
    clipped = _clipped(call, rows)
    rows.clear()
    averages = method.average(clipped, factors, fresh, exactly=call.grad_dtype is not None)
    del clipped
    seen = method.seen
    count = len(averages) // len(fresh)
    there = [
        weight != 0.0 and any(row is not None for row in averages[t * count : (t + 1) * count])
        for t, weight in enumerate(call.task_weights)
    ]
    ready = torch.ones_like(usable)
    if method.before == "wait":
        wanted = [k for k, weight in enumerate(call.task_weights) if weight != 0.0]
        ready = torch.stack([seen[t] for t in wanted]).all()
    answer = torch.where(usable, ready.double(), torch.nan)
    known = values() if method.uses_losses or rules.divides_by_losses else None
    losses = None if known is None else method.last_losses(known)
    of_averages = replace(
        call,
        method=Averages(method.method, seen, answer),
        tasks=replace(
            call.tasks, losses=(None,) * len(fresh), scale=None, part=tuple(there), totals=losses
        ),
        task_weights=[float(one) for one in there],
        rules=Rules(
            max_norm=rules.max_norm, normalise=rules.normalise, keep_scale=rules.keep_scale
        ),
        times_skipped=None,
    )
    report = merge(of_averages, averages)
    places = [place for place, target in enumerate(targets()) if target is not None]
    merged = [target for target in targets() if target is not None]
    method.divide_(merged, places, answer == 1.0)
    if call.scale is not None:
        torch._foreach_mul_(merged, call.scale)
    report.times_skipped = call.times_skipped
    if (
        report._gram is not None
    ):  # a task that was skipped shows as one whose gradient is not finite
        lost = ~squares.isfinite()
        shown = lost.unsqueeze(0) | lost.unsqueeze(1)
        report._gram = torch.where(shown, torch.nan, report._gram)
    return report


def _factors(call: Call, rows: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
    """The squared norms ``(T,)`` of the fresh gradients, their factors ``(T,)``, and whether they can be used, 0-d."""
    rules, tasks = call.rules, len(call.task_weights)
    known, limit = with_scaled_threshold(call)
    gram = ops.gram(clip_elements(rows, limit), tasks, (), known.rules.clip_value)
    gram = unscaled(gram, call.scale)
    if rules.nonfinite == "raise":
        raise_if_nonfinite(gram, call.weights, call.tasks.names)
    skip = rules.nonfinite == "skip_task"
    scale = ops.task_scales(gram, call.weights, rules.max_task_norm, skip, call.times_skipped)[0]
    squares = gram[0].diagonal()
    usable = torch.where(scale != 0, squares, 0.0).isfinite().all()
    factors = torch.where(usable, scale, 0.0)
    return squares, factors if call.scale is None else factors / call.scale.double(), usable


def _clipped(call: Call, rows: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients with their elements clipped, as they enter the averages."""
    known, limit = with_scaled_threshold(call)
    rows = clip_elements(rows, limit)
    bound = known.rules.clip_value
    if bound is None:
        return list(rows)
    return [None if row is None else row.clamp(-bound, bound) for row in rows]

"""From per-task gradients to the merged gradient: measure, weigh, merge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..gradients.layout import Layout
from ..gradients.rows import measured_rows, on_device, unscaled
from ..methods import CoordinateMethod, TrackingMethod
from .call import WHOLE, Call, Part
from .coordinates import merge_coordinates
from .normalised import normalised
from .report import Report
from .rules import Rules
from .scaled_clip import clip_elements, with_scaled_threshold
from .tracked import Tracked, show

__all__ = ["find_scale", "find_weights", "merge_rows", "raise_if_nonfinite", "report_of", "solve"]


def merge_rows(
    call: Call,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    layout: Layout,
    *,
    accumulate: bool = False,
    part: Part = WHOLE,
) -> Report:
    """Writes the merged gradient of the parameters that the layout keeps.

    Args:
        call: What is asked for.
        rows: ``T × P`` gradients.
        out: P tensors to write to, of the gradients' shapes and dtypes.
        layout: Of the P parameters.
        accumulate: Adds to ``out``.
        part: Which elements of the P parameters these are.

    Raises:
        RuntimeError: If a gradient is not finite and the rules say ``"raise"``.
    """
    call, limit = with_scaled_threshold(call)
    rows = clip_elements(rows, limit)
    method, rules = call.method, call.rules
    tasks = len(call.task_weights)
    gram = None
    measures = method.needs == "gram" or rules != Rules() or call.times_skipped is not None
    if measures and part is WHOLE and call.scale is None and rules.nonfinite != "raise":
        gram, scale = _measure(call, rows, layout)
    elif measures:
        measured = rows if part.measured is None else measured_rows(rows, part.measured)
        gram = unscaled(ops.gram(measured, tasks, layout.segments, rules.clip_value), call.scale)
        if part.total is not None:
            missing = layout.total - len(gram)  # last segments of which there is nothing here
            gram = part.total(torch.nn.functional.pad(gram, (0, 0, 0, 0, 0, missing)))
        scale = find_scale(call, gram, layout)
    else:
        scale = on_device(layout.factors(call.weights), out[0].device).reshape(-1, tasks)
    if isinstance(method, CoordinateMethod):
        weights = None
        clip_scale = merge_coordinates(call, rows, out, gram, scale, layout, accumulate, part)
    else:
        seen = Tracked(rows, gram, scale, rules.clip_value)
        if isinstance(method, TrackingMethod) and method.tracks and layout.shared > 0:
            seen = show(method, seen, call, layout, alone=part.total is None)
        weights = find_weights(call, seen.gram, seen.scale, layout.shared)
        clip_scale = ops.merge_(
            out,
            seen.rows,
            *seen.scaled(weights, rules.max_norm is not None),
            layout.segments,
            rules.max_norm,
            seen.clip_value,
            accumulate,
        )
    clipped = clip_scale if rules.max_norm is not None else None
    return report_of(call, layout, gram, scale, weights, clipped)


def _measure(call: Call, rows: Sequence[Tensor | None], layout: Layout) -> tuple[Tensor, Tensor]:
    """The Gram matrices, and the factors of the gradients, where nothing comes between the two."""
    rules, factors = call.rules, layout.factors(call.weights)
    skip = rules.nonfinite == "skip_task"
    return ops.gram_and_scales(
        rows,
        len(call.task_weights),
        layout.segments,
        rules.clip_value,
        factors,
        rules.max_task_norm,
        skip,
        call.times_skipped,
    )


def report_of(
    call: Call,
    layout: Layout,
    gram: Tensor | None,
    scale: Tensor,
    weights: Tensor | None,
    clip_scale: Tensor | None,
) -> Report:
    """What was measured and decided, of all segments; see :class:`Report`."""
    if weights is not None and layout.shared:
        weights = weights[: layout.shared]
    return Report(
        names=call.tasks.names,
        weights=weights,
        clip_scale=clip_scale,
        times_skipped=call.times_skipped,
        _gram=gram,
        _scale=scale,
        _shared=layout.shared,
        _part=tuple(factor != 0.0 for factor in layout.factors(call.weights)),
    )


def find_scale(call: Call, gram: Tensor, layout: Layout) -> Tensor:
    """``(total, T)`` float64, the factors of the gradients, of which ``gram`` is the Gram matrix."""
    factors, rules = layout.factors(call.weights), call.rules
    if rules.nonfinite == "raise":
        raise_if_nonfinite(gram, factors, call.tasks.names)
    skip = rules.nonfinite == "skip_task"
    return ops.task_scales(gram, factors, rules.max_task_norm, skip, call.times_skipped)


def find_weights(call: Call, gram: Tensor | None, scale: Tensor, shared: int) -> Tensor:
    """``(total, T)``: the method's answer in the shared segments, what it scales heads with in the last one."""
    method, losses = call.method, call.shown_losses
    if method.needs == "losses":
        if losses is None and not method.uses_losses:
            losses = torch.zeros_like(scale[0])
        if losses is not None:
            losses = torch.where((scale != 0).any(dim=0), losses.to(scale.device), torch.nan)
        weights = method.weights(None, losses, **call.given)
        return torch.where(scale != 0, scale * weights.to(scale.device), 0.0)
    if shared == len(scale):
        return solve(call, gram, scale, losses)
    if shared == 0:
        return method.scale_heads(scale, losses)
    assert gram is not None
    solved = solve(call, gram[:shared], scale[:shared], losses)
    return torch.cat([solved, method.scale_heads(scale[shared:], losses)])


def solve(call: Call, gram: Tensor | None, scale: Tensor, losses: Tensor | None) -> Tensor:
    """The method's answer to normalised gradients; it is told how exact the Gram matrix is if it asks."""
    if gram is not None:
        scale = normalised(call, gram, scale)
    known = {"rounding": call.rounding} if call.method.uses_rounding else {}
    return call.method.solve(gram, scale, losses, **known, **call.given)  # type: ignore[arg-type]


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

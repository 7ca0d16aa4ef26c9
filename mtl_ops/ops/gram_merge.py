"""Measure and merge: the passes over the task gradients, and the factors in between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_gram, check_gram_and_scales, check_merge
from .operator import Operator, Rows, device_of

__all__ = ["gram", "gram_and_scales", "merge_", "task_scales"]


def _fake_gram(rows: Rows, T: int, segments: Sequence[int], clip_value: float | None) -> Tensor:
    some = next(row for row in rows if row is not None)
    return some.new_empty((max(segments, default=0) + 1, T, T), dtype=torch.float64)


def _fake_gram_and_scales(
    rows: Rows,
    T: int,
    segments: Sequence[int],
    clip_value: float | None,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> tuple[Tensor, Tensor]:
    gram = _fake_gram(rows, T, segments, clip_value)
    return gram, gram.new_empty(gram.shape[:2])


def _fake_task_scales(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> Tensor:
    return gram.new_empty(gram.shape[:2])


def _fake_merge(
    out: Sequence[Tensor],
    grads: Rows,
    weights: Tensor,
    gram: Tensor | None,
    segments: Sequence[int],
    max_norm: float | None,
    clip_value: float | None,
    accumulate: bool,
) -> Tensor:
    return weights.new_empty(())


_gram = Operator("gram", _fake_gram, check_gram)
_gram_and_scales = Operator("gram_and_scales", _fake_gram_and_scales, check_gram_and_scales)
_task_scales = Operator("task_scales", _fake_task_scales)
_merge = Operator("merge_", _fake_merge, check_merge)


def gram(
    rows: Rows, tasks: int, segments: Sequence[int] = (), clip_value: float | None = None
) -> Tensor:
    """Inner products of the task gradients, ``G[s,i,j] = Σ_p <g_ip, g_jp>`` over p of segment s.

    Args:
        rows: ``T × P`` gradients (float32, float64, bfloat16 or float16; one dtype a parameter).
        tasks: T.
        segments: The segment of each of the P parameters; empty for one segment.
        clip_value: Clamps every element to ``[-clip_value, clip_value]`` as it is read.

    Returns:
        ``(S, T, T)`` float64, exact to :func:`rounding_of` the gradients' dtypes. Gradients of float32,
        bfloat16 and float16 may have any size; of float64, norms have to lie within 1e-150 and 1e150.
    """
    result: Tensor = _gram.on(device_of(rows), tasks)(rows, tasks, segments, clip_value)
    return result


def gram_and_scales(
    rows: Rows,
    tasks: int,
    segments: Sequence[int],
    clip_value: float | None,
    task_weights: Sequence[float],
    max_task_norm: float | None = None,
    skip_nonfinite: bool = False,
    skipped: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`gram`, and :func:`task_scales` of it, in one call.

    Args:
        rows: As of :func:`gram`.
        tasks: T.
        segments: As of :func:`gram`.
        clip_value: As of :func:`gram`.
        task_weights: As of :func:`task_scales`.
        max_task_norm: As of :func:`task_scales`.
        skip_nonfinite: As of :func:`task_scales`.
        skipped: As of :func:`task_scales`.

    Returns:
        ``(S, T, T)`` and ``(S, T)``, float64.
    """
    call = _gram_and_scales.on(device_of(rows), tasks)
    rest = (task_weights, max_task_norm, skip_nonfinite, skipped)
    result: tuple[Tensor, Tensor] = call(rows, tasks, segments, clip_value, *rest)
    return result


def task_scales(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None = None,
    skip_nonfinite: bool = False,
    skipped: Tensor | None = None,
) -> Tensor:
    """Factor of each task before it is merged: its weight, times its clip factor, or 0.

    Args:
        gram: ``(S, T, T)`` float64.
        task_weights: ``S × T`` numbers, row-major; 0 where the task takes no part in the segment.
        max_task_norm: Clips the norm of each task's gradient, taken over all segments.
        skip_nonfinite: Gives the factor 0 to a task whose norm is not finite, unless no other task
            is left.
        skipped: ``(T,)`` int64, counts the non-finite gradients of each task; changed in place.

    Returns:
        ``(S, T)`` float64.
    """
    call = _task_scales.on(gram.device.type, gram.shape[-1] if gram.dim() else 0)
    result: Tensor = call(gram, task_weights, max_task_norm, skip_nonfinite, skipped)
    return result


def merge_(
    out: Sequence[Tensor],
    rows: Rows,
    weights: Tensor,
    gram: Tensor | None = None,
    segments: Sequence[int] = (),
    max_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Writes the merged gradient, ``out_p = c Σ_t w[s(p),t] g_tp`` (plus what is there).

    ``c = min(1, max_norm / √(Σ_s w_sᵀ G_s w_s))``, or 1 without ``max_norm``. A task of weight 0 is
    not read at all.

    Args:
        out: P tensors of the gradients' shapes and dtypes, changed in place.
        rows: ``T × P`` gradients.
        weights: ``(S, T)`` float64.
        gram: ``(S, T, T)`` float64; needed for ``max_norm``.
        segments: The segment of each of the P parameters; empty for one segment.
        max_norm: Clips the norm of the merged gradient over all P parameters.
        clip_value: Clamps every element to ``[-clip_value, clip_value]`` as it is read.
        accumulate: Adds to ``out`` instead of overwriting it.

    Returns:
        ``c``, a 0-d float64 tensor.
    """
    tasks = weights.shape[-1] if weights.dim() else 0
    call = _merge.on(weights.device.type, tasks)
    result: Tensor = call(out, rows, weights, gram, segments, max_norm, clip_value, accumulate)
    return result

"""What csrc checks in C++, for the calls that do not get there: fakes, and the definitions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .kinds import tensors_in

__all__ = [
    "MAX_SEGMENTS",
    "check_coordinates",
    "check_device",
    "check_gram",
    "check_gram_and_scales",
    "check_merge",
]

#: As in csrc/arguments.h.
MAX_SEGMENTS = 1 << 16

#: Dtypes that gradients have.
DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})

Rows = Sequence[Tensor | None]


def check_device(name: str, args: tuple[Any, ...]) -> None:
    """Raises a ``ValueError`` if the tensors of a call are on several devices."""
    devices = {tensor.device for tensor in tensors_in(args)}
    if len(devices) > 1:
        found = " and ".join(sorted(map(str, devices)))
        raise ValueError(
            f"Parameters of `{name}` should hold tensors on one device. Found {found}."
        )


def check_gram(rows: Rows, tasks: int, segments: Sequence[int], clip_value: float | None) -> None:
    """Raises a ``ValueError`` if the arguments of :func:`mtl_ops.ops.gram` do not fit together."""
    if tasks < 1 or len(rows) % tasks != 0:
        raise ValueError(
            f"Parameter `rows` should hold T times P tensors. Found {len(rows)} tensors for T = {tasks}."
        )
    if all(row is None for row in rows):
        raise ValueError("Parameter `rows` should hold at least one tensor. Found only None.")
    count = len(rows) // tasks
    _check_segments(segments, count)
    _check_not_negative(clip_value=clip_value)
    for p in range(count):
        _check_column([row for row in rows[p::count] if row is not None], p)


def check_gram_and_scales(
    rows: Rows,
    tasks: int,
    segments: Sequence[int],
    clip_value: float | None,
    task_weights: Sequence[float],
    *rest: Any,
) -> None:
    """As :func:`check_gram`, for :func:`mtl_ops.ops.gram_and_scales`."""
    check_gram(rows, tasks, segments, clip_value)
    count = (max(segments, default=0) + 1) * tasks
    if len(task_weights) != count:
        raise ValueError(
            f"Parameter `task_weights` should hold {count} numbers. Found {len(task_weights)}."
        )


def check_merge(
    out: Sequence[Tensor],
    rows: Rows,
    weights: Tensor,
    gram: Tensor | None,
    segments: Sequence[int],
    max_norm: float | None,
    clip_value: float | None,
    accumulate: bool,
) -> None:
    """Raises a ``ValueError`` if the arguments of :func:`mtl_ops.ops.merge_` do not fit together."""
    if weights.dim() != 2:
        raise ValueError(
            f"Parameter `weights` should have shape (S, T). Found {tuple(weights.shape)}."
        )
    _check_out(out, rows, weights.shape[1], segments)
    _check_factors("weights", weights, weights.shape[1], segments)
    _check_not_negative(max_norm=max_norm, clip_value=clip_value)
    if max_norm is not None:
        shape = (*weights.shape, weights.shape[1])
        if gram is None or gram.shape != shape:
            found = None if gram is None else tuple(gram.shape)
            raise ValueError(
                f"Parameter `gram` should have shape {shape} with `max_norm`. Found {found}."
            )


def check_coordinates(
    out: Sequence[Tensor],
    rows: Rows,
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
    *own: Any,
) -> None:
    """Raises a ``ValueError`` if the arguments of an operator on coordinates do not fit together."""
    tasks = len(rows) // len(out) if out else 0
    _check_out(out, rows, tasks, segments)
    _check_not_negative(clip_value=clip_value)
    if scale is not None:
        _check_factors("scale", scale, tasks, segments)
    if own and isinstance(own[0], (int, float)) and not own[0] >= 0:  # tau or trim
        raise ValueError(
            f"Parameters `tau` and `trim` should be numbers of at least 0. Found {own[0]}."
        )
    if own and isinstance(own[0], (list, tuple)):
        leak = own[0]
        if len(leak) != tasks or not all(0 <= share <= 1 for share in leak):
            raise ValueError(
                f"Parameter `leak` should hold T = {tasks} numbers from 0 to 1. Found {list(leak)}."
            )


def _check_segments(segments: Sequence[int], count: int) -> None:
    if segments and len(segments) != count:
        raise ValueError(
            f"Parameter `segments` should be empty or name one segment for each of the {count} parameters. "
            f"Found {len(segments)}."
        )
    for segment in segments:
        if not 0 <= segment < MAX_SEGMENTS:
            raise ValueError(
                f"Parameter `segments` should hold numbers from 0 to {MAX_SEGMENTS - 1}. Found {segment}."
            )


def _check_not_negative(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not value >= 0:
            raise ValueError(
                f"Parameter `{name}` should be a number of at least 0 or None. Found `{name} = {value}`."
            )


def _check_factors(name: str, factors: Tensor, tasks: int, segments: Sequence[int]) -> None:
    least = max(segments, default=0) + 1
    if factors.dim() != 2 or factors.shape[0] < least or factors.shape[1] != tasks:
        raise ValueError(
            f"Parameter `{name}` should have shape (S, T) with S at least {least} and T = {tasks}. "
            f"Found {tuple(factors.shape)}."
        )


def _check_out(out: Sequence[Tensor], rows: Rows, tasks: int, segments: Sequence[int]) -> None:
    if not out:
        raise ValueError("Parameter `out` should hold at least one tensor. Found none.")
    if tasks < 1 or len(rows) != tasks * len(out):
        raise ValueError(
            f"Parameter `rows` should hold T times P tensors, with P = {len(out)} tensors in `out`. "
            f"Found {len(rows)}."
        )
    _check_segments(segments, len(out))
    for p, target in enumerate(out):
        column = [row for row in rows[p :: len(out)] if row is not None]
        _check_column([target, *column], p)
        if torch._debug_has_internal_overlap(target) == 1:
            raise ValueError(
                f"Parameter `out` should hold tensors whose elements share no memory. "
                f"Found an expanded one at place {p}."
            )
    _check_apart(out, rows)


def _check_column(tensors: Sequence[Tensor], p: int) -> None:
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"Parameter `rows` should hold float32, float64, bfloat16 or float16 tensors. Found {tensor.dtype}."
            )
        if tensor.shape != tensors[0].shape or tensor.dtype != tensors[0].dtype:
            raise ValueError(
                f"Parameter `rows` should hold gradients of parameter {p} of one shape and dtype. "
                f"Found {tuple(tensors[0].shape)} of {tensors[0].dtype} and {tuple(tensor.shape)} of {tensor.dtype}."
            )


def _check_apart(out: Sequence[Tensor], rows: Rows) -> None:
    """Outputs are merged one after the other: what is read later must not have been written to."""
    if out[0].device.type == "meta" or isinstance(out[0], torch._subclasses.FakeTensor):
        return
    written = [_memory(target) for target in out]
    ordered = sorted(memory for memory in written if memory[0] < memory[1])
    if any(a[1] > b[0] for a, b in itertools.pairwise(ordered)):
        raise ValueError(
            "Parameter `out` should hold tensors that share no memory. Found two that do."
        )
    for place, row in enumerate(rows):
        if row is None:
            continue
        begin, end = _memory(row)
        for p, (first, last) in enumerate(written):
            itself = p == place % len(out) and (begin, end) == (first, last)
            if begin < last and first < end and not (itself and row.stride() == out[p].stride()):
                raise ValueError(
                    f"Parameter `rows` should share no memory with `out`, or be what they are merged into. "
                    f"Found the gradient at place {place} elsewhere in `out`."
                )


def _memory(tensor: Tensor) -> tuple[int, int]:
    if tensor.numel() == 0:
        return 0, 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()

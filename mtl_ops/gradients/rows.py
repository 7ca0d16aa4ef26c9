"""``T × P`` gradients as one flat list, row-major, and what is read off it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from .. import ops
from .checks import check_dtypes
from .sparse import filled_in

__all__ = ["columns", "dense", "dtypes_of", "measured_rows", "on_device", "unscaled"]


def columns(
    rows: Sequence[Tensor | None], count: int, places: Sequence[int]
) -> list[Tensor | None]:
    """The gradients of some of the P parameters."""
    if len(places) == count:
        return list(rows)
    return [rows[start + p] for start in range(0, len(rows), count) for p in places]


def dtypes_of(rows: Sequence[Tensor | None], params: Sequence[Tensor]) -> list[torch.dtype]:
    """Of the gradients of each of P parameters; its own where no task reaches it.

    Raises:
        TypeError: If one is complex, or has too few bits.
    """
    found = [
        next((row.dtype for row in rows[p :: len(params)] if row is not None), param.dtype)
        for p, param in enumerate(params)
    ]
    check_dtypes("params", set(found))
    return found


def measured_rows(rows: Sequence[Tensor | None], measured: Sequence[bool]) -> list[Tensor | None]:
    """``T × P`` gradients, without elements where they are measured elsewhere."""
    count = len(measured)
    return [
        row if row is None or measured[k % count] else row.flatten()[:0]
        for k, row in enumerate(rows)
    ]


def unscaled(gram: Tensor, grad_scale: Tensor | None) -> Tensor:
    """The Gram matrix of gradients from that of gradients times a factor."""
    return gram if grad_scale is None else gram / grad_scale.to(gram.dtype).square()


def on_device(values: Sequence[float], device: torch.device) -> Tensor:
    """Numbers as float64 on a device, without the wait that copying a tensor there would be."""
    nothing = torch.zeros(1, len(values), len(values), dtype=torch.float64, device=device)
    return ops.task_scales(nothing, values)[0]


@overload
def dense(row: Tensor) -> Tensor: ...


@overload
def dense(row: Tensor | None) -> Tensor | None: ...


def dense(row: Tensor | None) -> Tensor | None:
    """A gradient that the kernels can read: sparse ones are filled in."""
    return row if row is None or row.layout == torch.strided else filled_in(row)

"""Where the merged gradient lands: ``.grad``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributed import Scatter
from ..gradients.rows import columns, dtypes_of
from ..merging.call import Call
from ..merging.layout import NOTHING_REACHED, find_layout
from ..merging.merge import merge_rows
from ..merging.report import Report

__all__ = ["add_to_grads", "merge_into_grads"]


def merge_into_grads(call: Call, rows: list[Tensor | None], early: Scatter | None = None) -> Report:
    """Merges ``T × P`` gradients and adds the result to ``.grad``.

    Args:
        call: What is asked for.
        rows: The gradients. The list is emptied, to free them before what was merged is converted.
        early: What the gradients were handed to already, see :meth:`Processes.expect`.

    Raises:
        ValueError: If no task reaches any parameter.
    """
    params = call.params.tensors
    if call.tasks.parallel is not None:
        report, merged = call.tasks.parallel.merge(call, rows, early)
        add_to_grads(merged, params)
        return report
    whole = rows
    layout = find_layout(rows, len(call.task_weights), call.params.sets, call.params.shared)
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
    report = merge_rows(call, rows, out, layout, accumulate=accumulate)
    rows.clear()
    whole.clear()
    if as_stored:
        for param, gradient in zip(reached, out, strict=True):
            param.grad = gradient
    else:
        add_to_grads(dict(enumerate(out)), reached)
    return report


def add_to_grads(merged: dict[int, Tensor], params: Sequence[Tensor]) -> None:
    """Adds gradients, by place and of any dtype, to ``.grad``; frees each before the next is converted."""
    for place in list(merged):
        param, gradient = params[place], merged.pop(place)
        if param.grad is None:
            param.grad = gradient.to(param.dtype)
        else:
            param.grad.add_(gradient)

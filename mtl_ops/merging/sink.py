"""Where the merged gradient lands: ``.grad`` of parameters that this process holds by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..gradients.layout import NOTHING_REACHED, find_layout
from ..gradients.rows import columns, dtypes_of
from ..gradients.sparse import add_to_grad, stand_ins
from .call import Call
from .merge import merge_rows
from .report import Report

__all__ = ["GRADS", "Early", "Sink", "add_to_grads", "write_grads"]


class Early(Protocol):
    """Takes the gradients of each task before all are there."""

    def launch(self, task: int, row: Sequence[Tensor | None]) -> None:
        """Takes the P gradients of a task."""


class Sink:
    """Merges rows into ``.grad``; of one process here, of several in :mod:`mtl_ops.distributed`.

    Attributes:
        alone: Whether no other process has a part in the gradient.
    """

    alone = True

    def merge(self, call: Call, rows: list[Tensor | None], early: Early | None = None) -> Report:
        """Merges ``T × P`` gradients and adds the result to ``.grad``.

        Args:
            call: What is asked for.
            rows: The gradients. The list is emptied, to free them before what was merged is converted.
            early: What the gradients were handed to already, see :meth:`expect`.

        Raises:
            ValueError: If no task reaches any parameter.
        """
        params: Sequence[Tensor] = call.params.tensors
        whole, instead = rows, stand_ins(rows, params)
        if instead:
            params = [
                instead[p].tensor if p in instead else param for p, param in enumerate(params)
            ]
        layout = find_layout(rows, len(call.task_weights), call.params.sets, call.params.shared)
        reached: Sequence[Tensor] = params
        if layout.kept is not None:
            reached = [params[p] for p in layout.kept]
            rows = columns(rows, len(params), layout.kept)
        if not reached:
            raise ValueError(NOTHING_REACHED)

        def write_(out: list[Tensor], accumulate: bool) -> Report:
            report = merge_rows(call, rows, out, layout, accumulate=accumulate)
            rows.clear()
            whole.clear()
            return report

        report = write_grads(reached, dtypes_of(rows, reached), write_)
        for stand_in in instead.values():
            stand_in.land()
        return report

    def expect(self, call: Call, reached: Sequence[Tensor | None] = ()) -> Early | None:
        """What can take the gradients of each task before :meth:`merge` gets all of them, if anything.

        Args:
            call: What is asked for.
            reached: ``T × P``, ``None`` where a task does not reach a parameter, if that is known
                already. It is taken to be as last time otherwise, if that was so.
        """
        return None

    def anywhere(
        self, rows: Sequence[Tensor | None], params: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """``rows``, with something where the task reaches the parameter in another process only."""
        return rows

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor

    def measure(
        self,
        rows: list[Tensor | None],
        params: Sequence[Tensor],
        gram: Callable[[Sequence[Tensor | None]], Tensor],
    ) -> Tensor:
        """The Gram matrix of the joint batch's gradients of some parameters, of which ``rows`` are this process's."""
        return gram(rows)


#: Of one process.
GRADS = Sink()


def write_grads(
    params: Sequence[Tensor],
    dtypes: Sequence[torch.dtype],
    write_: Callable[[list[Tensor], bool], Report],
) -> Report:
    """Adds to ``.grad`` what is written to tensors of the parameters' shapes.

    Args:
        params: The parameters.
        dtypes: Of what is written for each.
        write_: Writes to the tensors, or adds to them, and frees what it needs for that.
    """
    pairs = list(zip(params, dtypes, strict=True))
    as_stored = all(param.dtype == dtype for param, dtype in pairs)
    accumulate = as_stored and any(param.grad is not None for param in params)
    if accumulate:
        out = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    else:
        out = [torch.empty_like(param, dtype=dtype) for param, dtype in pairs]
    report = write_(out, accumulate)
    if as_stored:
        for param, gradient in zip(params, out, strict=True):
            param.grad = gradient
    else:
        add_to_grads(dict(enumerate(out)), params)
    return report


def add_to_grads(merged: dict[int, Tensor], params: Sequence[Tensor]) -> None:
    """Adds gradients, by place and of any dtype, to ``.grad``; frees each before the next is converted."""
    for place in list(merged):
        add_to_grad(params[place], merged.pop(place))

"""The gradients of all tasks from one backward that is batched over the tasks (``torch.func.vmap``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .frontier import Frontier, find_frontier, has_hooks
from .reach import Trace, leaves_of_each, root
from .rows import dense
from .streams import lent
from .tasks import Tasks

__all__ = ["Batching"]


class Batching:
    """Differentiates all losses at once where that works, and remembers where it does not.

    Each loss goes by itself down to where sharing begins, from where the gradients of all go on together. What a
    loss has for itself, or shares in another place than the others, thus is not batched.

    A graph is known by the names of its nodes. Before a kind of graph has worked once it is kept, so
    that it can still be differentiated task by task.
    """

    def __init__(self) -> None:
        self._works: set[frozenset[str]] = set()
        self._fails: set[frozenset[str]] = set()

    def gradients(
        self, tasks: Tasks, params: Sequence[Tensor], retain_graph: bool
    ) -> list[list[Tensor | None]] | None:
        """P gradients of each of T tasks; ``None`` if they have to be computed one by one."""
        if len(tasks.present) < 2:
            return None
        trace = Trace.of(tasks.losses)
        kind = frozenset(trace.names.values())
        if kind in self._fails:
            return None
        first = kind not in self._works
        try:
            if "CompiledFunctionBackward" in kind:
                raise RuntimeError("a compiled function cannot be batched")
            frontier = find_frontier(trace)
            if frontier is None or has_hooks(frontier.edges):
                return None
            rows = _gradients(tasks, params, trace, frontier, retain_graph, first)
        except RuntimeError as error:
            if "second time" in str(error):
                return None  # the first task's own backward says it in the user's words
            if not first:
                raise
            self._give_up(kind, error)
            return None
        self._works.add(kind)
        return rows

    def _give_up(self, kind: frozenset[str], error: RuntimeError) -> None:
        if not self._fails:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                "Parameter `batched` should be False for this model: its losses are differentiated one by one. "
                f"Found {reason!r}.",
                stacklevel=2,
            )
        self._fails.add(kind)


def _gradients(
    tasks: Tasks,
    params: Sequence[Tensor],
    trace: Trace,
    frontier: Frontier,
    retain_graph: bool,
    first: bool,
) -> list[list[Tensor | None]]:
    """P gradients of each of T tasks; the graph of the ``first`` of its kind is kept."""
    reached = leaves_of_each(tasks.losses, trace)
    rows: list[list[Tensor | None]] = [[None] * len(params) for _ in tasks.losses]
    arrived: list[dict[int, Tensor]] = [{} for _ in frontier.edges]  # by task
    for t in tasks.present:
        edges = [e for e, users in enumerate(frontier.users) if users >> t & 1]
        above = [
            p
            for p, param in enumerate(params)
            if id(param) in reached[t] and id(param) not in frontier.below
        ]
        inputs: list[Any] = [*(frontier.edges[e] for e in edges), *(params[p] for p in above)]
        others = not frontier.alone and t != max(tasks.present)
        found = _differentiate(tasks, t, inputs, retain_graph or first or others)
        for e, gradient in zip(edges, found, strict=False):
            if gradient is not None:
                arrived[e][t] = gradient
        for p, row in zip(above, found[len(edges) :], strict=True):
            rows[t][p] = dense(row)
    below = [p for p, param in enumerate(params) if id(param) in frontier.below]
    for t, batch in _batch(frontier, arrived, [params[p] for p in below], retain_graph or first):
        for p, row in zip(below, batch, strict=True):
            rows[t][p] = row if id(params[p]) in reached[t] else None
    return rows


def _differentiate(
    tasks: Tasks, task: int, inputs: Sequence[Any], retain_graph: bool
) -> Sequence[Tensor | None]:
    """The gradients of one loss by tensors and edges of its graph."""
    loss = tasks.losses[task]
    start: Any = None if loss is None else root(loss)
    assert start is not None
    if not inputs:
        return []
    assert loss is not None
    with lent([start], loss.device) as other:
        found = torch.autograd.grad(
            [start], inputs, [tasks.factor(task)], retain_graph=retain_graph, allow_unused=True
        )
    if other is not None:
        other.keep(found)
    return found


def _batch(
    frontier: Frontier,
    arrived: Sequence[dict[int, Tensor]],
    params: Sequence[Tensor],
    retain_graph: bool,
) -> Iterator[tuple[int, list[Tensor | None]]]:
    """The gradients of each task below the frontier, from those that have arrived there."""
    used = [e for e, gradients in enumerate(arrived) if gradients]
    tasks = sorted({t for gradients in arrived for t in gradients})
    if not used or not params:
        return
    starts = [frontier.edges[e] for e in used]
    with lent(starts, params[0].device) as other:
        batches = torch.autograd.grad(
            starts,
            params,
            [_stacked(arrived[e], tasks) for e in used],
            retain_graph=retain_graph,
            allow_unused=True,
            is_grads_batched=True,
        )
    if other is not None:
        other.keep(batches)
    for place, t in enumerate(tasks):
        yield t, [None if batch is None else batch[place] for batch in batches]


def _stacked(gradients: dict[int, Tensor], tasks: Sequence[int]) -> Tensor:
    """One for each task, zeros of those that have none there."""
    nothing = torch.zeros_like(next(iter(gradients.values())))
    return torch.stack([gradients.get(t, nothing) for t in tasks])

"""The backwards: each loss to where its own part ends, and from there all tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..differentiate import explain
from ..rows import dense
from ..streams import lent
from ..tasks import Tasks
from .plan import Plan
from .walk import Edge, Walk

__all__ = ["Found", "differentiate"]

#: Gradients of nodes' outputs by the nodes' numbers, for each task; a node that it does not reach is not there.
Found = list[dict[int, Tensor]]


def differentiate(
    graph: Walk, tasks: Tasks, plan: Plan, retain_graph: bool, first: bool
) -> tuple[Found, bool]:
    """The gradients of all that the plan asks for, and whether batching worked.

    Args:
        graph: Of the losses.
        tasks: The losses.
        plan: For this graph.
        retain_graph: Keeps the graph for another backward.
        first: Whether it is not known yet if this kind of graph can be batched: it is then kept for a second try.

    Raises:
        RuntimeError: If the graph was freed by an earlier backward.
    """
    found: Found = [{} for _ in tasks.losses]
    at_cut: list[dict[Edge, Tensor]] = [{} for _ in tasks.losses]
    last = max(tasks.present)
    # Of the tasks' own parts each is freed as it is left, unless something that is shared lies above the cut.
    mixed = any(
        bits & (bits - 1) and place not in plan.zone for place, bits in enumerate(graph.bits)
    )
    for task in tasks.present:
        cut = [edge for edge in plan.cut if graph.bits[edge[0]] >> task & 1]
        own = [
            place
            for place in plan.targets
            if place not in plan.zone and graph.bits[place] >> task & 1
        ]
        keep = retain_graph or (first and bool(plan.groups)) or (mixed and task != last)
        edges = [*cut, *((place, 0) for place in own)]
        got = _from_loss(graph, tasks, task, edges, keep)
        for edge, gradient in zip(edges, got, strict=True):
            if gradient is not None and edge in plan.cut:
                at_cut[task][edge] = gradient
            elif gradient is not None:
                found[task][edge[0]] = dense(gradient)
    batched = True
    for place, group in enumerate(plan.groups):
        keep = retain_graph or place + 1 < len(plan.groups)
        batched = _together(graph, plan, group, at_cut, found, keep, first, batched)
    return found, batched


def _from_loss(
    graph: Walk, tasks: Tasks, task: int, edges: Sequence[Edge], keep: bool
) -> Sequence[Tensor | None]:
    root = graph.roots[task]
    if root is None or not edges:
        return [None] * len(edges)
    loss, factor = tasks.losses[task], tasks.factor(task)
    assert loss is not None
    one = torch.ones_like(loss) if factor is None else factor
    try:
        return _grad(graph, [root], edges, [one], keep)
    except RuntimeError as error:
        explain(error, tasks.label(task))
        raise


def _together(
    graph: Walk,
    plan: Plan,
    group: Sequence[int],
    at_cut: list[dict[Edge, Tensor]],
    found: Found,
    keep: bool,
    first: bool,
    batched: bool,
) -> bool:
    """Goes on for tasks that come in by the same nodes; whether that worked in one backward."""
    targets = [
        (place, 0)
        for place in plan.targets
        if place in plan.zone and graph.bits[place] >> group[0] & 1
    ]
    starts = [edge for edge in plan.cut if any(edge in at_cut[task] for task in group)]
    if not targets or not starts:
        return batched
    if batched and len(group) > 1:
        try:
            all_given = [_stack([at_cut[task].get(edge) for task in group]) for edge in starts]
            got = _grad(graph, starts, targets, all_given, keep or first, is_grads_batched=True)
            for (place, _), gradients in zip(targets, got, strict=True):
                if gradients is not None:
                    for task, row in zip(group, gradients.unbind(), strict=True):
                        found[task][place] = row
            return True
        except RuntimeError as error:
            if not first or "second time" in str(error):
                raise
    for task in group:
        entries = [edge for edge in starts if edge in at_cut[task]]
        given = [at_cut[task][edge] for edge in entries]
        got = _grad(graph, entries, targets, given, keep or first or task != group[-1])
        for (place, _), gradient in zip(targets, got, strict=True):
            if gradient is not None:
                found[task][place] = dense(gradient)
    return batched and len(group) == 1


def _stack(gradients: Sequence[Tensor | None]) -> Tensor:
    """Zeros for an output that a task does not use, of a node that it does."""
    some = next(gradient for gradient in gradients if gradient is not None)
    return torch.stack(
        [torch.zeros_like(some) if gradient is None else gradient for gradient in gradients]
    )


def _grad(
    graph: Walk,
    outputs: Sequence[Edge],
    inputs: Sequence[Edge],
    given: Sequence[Tensor],
    keep: bool,
    **options: Any,
) -> Sequence[Tensor | None]:
    starts = [graph.edge(edge) for edge in outputs]
    with lent(starts, given[0].device) as other:
        found = torch.autograd.grad(
            starts,
            [graph.edge(edge) for edge in inputs],
            given,
            retain_graph=keep,
            allow_unused=True,
            **options,
        )
    if other is not None:
        other.keep(found)
    return found

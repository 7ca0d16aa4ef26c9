"""Joins of predictions that hide which head is whose."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .frontier import leaves_past
from .movement import RULES
from .reach import Trace, root

__all__ = ["warn_of_hidden_heads"]

#: Nodes with several operands that are parts of their result.
_JOINS = frozenset(
    {
        "CatBackward0",
        "StackBackward0",
        "IndexPutBackward0",
        "CopySlices",
        "torch::autograd::CopySlices",
    }
)


def warn_of_hidden_heads(losses: Sequence[Tensor | None]) -> None:
    """Warns the caller of `MultiTaskOptimizer.backward` of parameters that only seem to be shared.

    Such are what lies behind a join, several losses of which seem to use a part that the gradient of one of them
    does not arrive at: a mask or a matrix picks the part, which the graph does not tell. That is looked for where
    the losses' own parts meet in a join, if they do, by differentiating each loss down to there; on a GPU it waits.
    """
    trace = Trace.of(losses)
    edges = _doubtful(trace)
    if not edges or "CompiledFunctionBackward" in trace.names.values():
        return
    try:
        unmet = {t: _without_gradient(losses[t], t, edges) for t in range(len(losses))}
    except RuntimeError:  # the task's own backward says it in the user's words
        return
    hidden: dict[int, Tensor] = {}
    for t, here in unmet.items():
        # where no loss has a gradient nothing is hidden: the heads may start from zeros
        here = [edge for edge in here if not all(edge in unmet[u] for u in _bits(edges[edge]))]
        if here:
            past, every = leaves_past([losses[t]], here), leaves_past([losses[t]], [])
            hidden |= {name: leaf for name, leaf in every.items() if name not in past}
    if hidden:
        shape = tuple(next(iter(hidden.values())).shape)
        warnings.warn(
            f"Several losses seem to reach {len(hidden)} parameters (the first has shape {shape}) that one of them "
            "gets its gradient from alone: their predictions are joined in one tensor, of which each loss picks a "
            "part in a way that the graph does not tell. They count as shared. Name those that are in `shared`, or "
            "index the joined tensor by slices and numbers.",
            stacklevel=5,
        )


def _doubtful(trace: Trace) -> dict[tuple[Node, int], int]:
    """What is joined where losses meet, each with the losses that seem to use it, if there are several."""
    mixed: set[Node] = set()  # below something that several losses use as a whole
    found: dict[tuple[Node, int], int] = {}
    for node in trace.order:
        several = bool(trace.reached[node] & (trace.reached[node] - 1))
        edges = trace.edges(node)
        if node in mixed or (several and trace.names[node] not in RULES):
            mixed.update(after for after, _, _ in edges)
        elif several and trace.names[node] in _JOINS and len(edges) > 1:
            for after, place, users in edges:
                if users & (users - 1):
                    found[after, place] = found.get((after, place), 0) | users
    return found


def _without_gradient(
    loss: Tensor | None, task: int, edges: Mapping[tuple[Node, int], int]
) -> list[tuple[Node, int]]:
    """The outputs of nodes that a loss seems to use, and at which its gradient is zero."""
    used = [edge for edge, users in edges.items() if users >> task & 1]
    start: Any = None if loss is None else root(loss)
    if start is None or not used:
        return []
    gradients = torch.autograd.grad(
        [start],
        [GradientEdge(node, place) for node, place in used],
        retain_graph=True,
        allow_unused=True,
    )
    return [
        edge
        for edge, gradient in zip(used, gradients, strict=True)
        if gradient is None or not bool((gradient != 0).any())
    ]


def _bits(losses: int) -> list[int]:
    return [t for t in range(losses.bit_length()) if losses >> t & 1]

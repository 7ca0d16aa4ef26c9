"""Where the losses' own parts of the graph end, and what they share begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from .reach import Trace, root

__all__ = ["Frontier", "find_frontier", "has_hooks", "leaves_above", "leaves_past"]


@dataclass(frozen=True)
class Frontier:
    """A cut through the graph: no edge of it lies below another, and no parameter is reached both ways.

    So the gradients of the edges, of all losses, and nothing else, decide those of what lies below.

    Attributes:
        edges: E outputs of nodes that lie below.
        users: For each of them the losses that come to it from above, as bits.
        below: The ``id`` of the leaves below it, which are reached through the edges alone.
        alone: Whether autograd meets no node above it, but for leaves, with several losses: each may then be freed with
            its loss. What is joined is met with all, also where they use parts of it that come from elsewhere.
    """

    edges: tuple[GradientEdge, ...]
    users: tuple[int, ...]
    below: frozenset[int]
    alone: bool


def find_frontier(trace: Trace) -> Frontier | None:
    """The highest cut below which all is shared; ``None`` if nothing of any leaf lies below one.

    A place where sharing begins that lies below another such place (an early head, a weight that is used both in the
    trunk and in a head, a penalty on it in a loss) moves the cut down to it, and what lies between is above the cut.
    """
    below = _shared(trace)
    while True:
        crossing = _crossing(trace, below)
        targets = {node for node, _ in crossing}
        leading: set[Node] = set()  # to one of them
        for node in reversed(trace.order):
            if node in below:
                for after, _, users in trace.edges(node):
                    if users and (after in targets or after in leading):
                        leading.add(node)
                        break
        if not leading:
            break
        below -= leading
    below -= _chains_to_leaves(trace, below, targets)
    crossing = {edge: users for edge, users in crossing.items() if edge[0] in below}
    edges = {edge: users for edge, users in crossing.items() if trace.following[edge[0]]}
    leaves = {
        id(variable)
        for node in below
        if node not in targets and (variable := _variable(trace, node)) is not None
    }
    if not edges or not leaves:
        return None
    several = (
        node
        for node in trace.order
        if node not in below and trace.following[node] and _is_several(trace.reached[node])
    )
    return Frontier(
        tuple(GradientEdge(node, place) for node, place in edges),
        tuple(edges.values()),
        frozenset(leaves),
        not trace.narrowed and next(several, None) is None,
    )


def _shared(trace: Trace) -> set[Node]:
    """The nodes that several losses use, and all that these lead to."""
    found: set[Node] = set()
    for node in trace.order:
        if node in found or _is_several(trace.reached[node]):
            found.add(node)
            found.update(after for after, _, users in trace.edges(node) if users)
    return found


def _crossing(trace: Trace, below: set[Node]) -> dict[tuple[Node, int], int]:
    """The outputs of nodes below that a loss, or a node above, uses, and the losses that do."""
    found: dict[tuple[Node, int], int] = {}
    for t, start in enumerate(trace.starts):
        if start is not None and start[0] in below:
            found[start] = found.get(start, 0) | 1 << t
    for node in trace.order:
        if node not in below:
            for after, place, users in trace.edges(node):
                if users and after in below:
                    found[after, place] = found.get((after, place), 0) | users
    return found


def _chains_to_leaves(trace: Trace, below: set[Node], targets: set[Node]) -> set[Node]:
    """What lies between a node above and a leaf that nothing else below leads to, as the transpose of a weight.

    Such a gradient is not worth to be gathered from all losses.
    """
    parents: dict[Node, int] = {}
    for node in below:
        for after, _, _ in trace.edges(node):
            parents[after] = parents.get(after, 0) + 1
    found: set[Node] = set()
    for node in targets:
        chain = [node]
        while len(edges := trace.edges(chain[-1])) == 1 and parents[edges[0][0]] == 1:
            chain.append(edges[0][0])
        if not trace.following[chain[-1]]:
            found.update(chain)
    return found


def _variable(trace: Trace, node: Node) -> Tensor | None:
    return None if trace.following[node] else getattr(node, "variable", None)


def _is_several(losses: int) -> bool:
    return bool(losses & (losses - 1))


def has_hooks(edges: Sequence[GradientEdge]) -> bool:
    """Whether a hook changes the gradient of one of some tensors: it would do so once for each backward that meets it.

    The hooks are called with zeros.
    """
    for edge in edges:
        metadata = edge.node._input_metadata[edge.output_nr]
        zero = torch.zeros((), dtype=metadata.dtype, device=metadata.device)
        given = zero.expand(tuple(metadata.shape))
        (found,) = torch.autograd.grad([edge], [edge], [given], retain_graph=True)
        if found is not given:
            return True
    return False


def leaves_above(
    losses: Sequence[Tensor | None], features: Sequence[Tensor]
) -> dict[int, Tensor] | None:
    """The leaves that losses reach otherwise than through the features, by their ``id``.

    ``None`` if the features are no cut: if one of them lies below another or is a leaf, if a leaf is reached both
    through them and otherwise, or if a hook of theirs may change a gradient that goes on from there.
    """
    if any(feature.is_leaf or feature._backward_hooks for feature in features):
        return None
    edges = [(feature.grad_fn, feature.output_nr) for feature in features]
    above = leaves_past(losses, edges)
    beyond = [edge for node, _ in edges if node is not None for edge in node.next_functions]
    below, nested = _walk(beyond, set(edges))
    return None if nested or above.keys() & below.keys() else above


def leaves_past(
    losses: Sequence[Tensor | None], edges: Sequence[tuple[Node | None, int]]
) -> dict[int, Tensor]:
    """The leaves that autograd reaches from losses without passing through some outputs, by their ``id``."""
    found = {id(t): t for t in losses if t is not None and t.is_leaf and t.requires_grad}
    starts = [root(loss) for loss in losses if loss is not None]
    heads: list[tuple[Node | None, int]] = [
        (one.grad_fn, one.output_nr) if isinstance(one, Tensor) else (one.node, one.output_nr)
        for one in starts
        if one is not None
    ]
    return found | _walk(heads, set(edges))[0]


def _walk(
    edges: Sequence[tuple[Node | None, int]], stops: set[tuple[Node | None, int]]
) -> tuple[dict[int, Tensor], bool]:
    """The leaves that are reached without passing through one of some outputs, and whether one of these is met."""
    waiting = list(edges)
    seen: set[Node] = set()
    found: dict[int, Tensor] = {}
    met = False
    while waiting:
        edge = waiting.pop()
        node = edge[0]
        if edge in stops:
            met = True
        elif node is not None and node not in seen:
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None:
                found[id(variable)] = variable
            waiting.extend(node.next_functions)
    return found, met

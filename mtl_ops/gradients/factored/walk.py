"""The graph below the losses as lists and numbers: what it looks like, and who reaches what."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..reach import Trace, root
from ..tasks import Tasks

__all__ = ["Edge", "Walk", "walk", "walk_from"]

#: A node by its number, and which of its outputs.
Edge = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """Nodes by number; each has a larger number than all that it leads to.

    Attributes:
        nodes: The nodes.
        names: What they are.
        following: For each operand of each node where its gradient goes; ``None`` where no loss uses it.
        bits: For each node the tasks that use it, as bits.
        roots: Where the losses are; ``None`` for a task that is absent.
        leaves: The node of each of P parameters; ``None`` for one that no loss uses.
    """

    nodes: list[Node]
    names: tuple[str, ...]
    following: tuple[tuple[Edge | None, ...], ...]
    bits: tuple[int, ...]
    roots: tuple[Edge | None, ...]
    leaves: tuple[int | None, ...]

    @property
    def shape(self) -> Hashable:
        """Equal for graphs with the same nodes in the same places."""
        return self.names, self.following, self.bits, self.roots, self.leaves

    @cached_property
    def parents(self) -> list[list[Edge]]:
        """For each node those that read it: which node, and as which of its operands."""
        found: list[list[Edge]] = [[] for _ in self.nodes]
        for place, edges in enumerate(self.following):
            for operand, after in enumerate(edges):
                if after is not None:
                    found[after[0]].append((place, operand))
        return found

    def edge(self, edge: Edge) -> GradientEdge:
        """What autograd calls it."""
        return GradientEdge(self.nodes[edge[0]], edge[1])


def walk(tasks: Tasks, params: Sequence[Tensor]) -> Walk:
    """Numbers the nodes that the losses use, by what part of each tensor they use."""
    trace = Trace.of(tasks.losses)
    roots = [_root(loss) for loss in tasks.losses]
    nodes = [node for node in reversed(trace.order) if trace.reached[node]]
    reached = [trace.reached[node] for node in nodes]
    numbers = {node: place for place, node in enumerate(nodes)}
    for task, edge in enumerate(roots):
        if edge is None or trace.starts[task] is not None:
            continue
        if edge.node not in numbers:  # a loss that is a leaf
            numbers[edge.node] = len(nodes)
            nodes.append(edge.node)
            reached.append(0)
        reached[numbers[edge.node]] |= 1 << task
    following = tuple(_after(trace, node, numbers) for node in nodes)
    variables = {
        id(getattr(nodes[place], "variable", None)): place
        for place, edges in enumerate(following)
        if not edges
    }
    return Walk(
        nodes,
        tuple(node.name() for node in nodes),
        following,
        tuple(reached),
        tuple(None if edge is None else (numbers[edge.node], edge.output_nr) for edge in roots),
        tuple(variables.get(id(param)) for param in params),
    )


def walk_from(start: GradientEdge, params: Sequence[Tensor]) -> Walk:
    """Numbers the nodes below one tensor, as if it was one loss."""
    numbers: dict[Node, int] = {}
    nodes: list[Node] = []
    following: list[tuple[Edge | None, ...]] = []
    waiting: list[tuple[Node, tuple[tuple[Node | None, int], ...] | None]] = [(start.node, None)]
    seen: set[Node] = set()
    while waiting:
        node, edges = waiting.pop()
        if edges is not None:
            numbers[node] = len(nodes)
            nodes.append(node)
            following.append(
                tuple(None if after is None else (numbers[after], place) for after, place in edges)
            )
        elif node not in seen:
            seen.add(node)
            edges = node.next_functions
            waiting.append((node, edges))
            waiting += [(after, None) for after, _ in edges if after is not None]
    variables = {
        id(getattr(nodes[place], "variable", None)): place
        for place, edges in enumerate(following)
        if not edges
    }
    return Walk(
        nodes,
        tuple(node.name() for node in nodes),
        tuple(following),
        (1,) * len(nodes),
        ((numbers[start.node], start.output_nr),),
        tuple(variables.get(id(param)) for param in params),
    )


def _root(loss: Tensor | None) -> GradientEdge | None:
    start = None if loss is None else root(loss)
    return get_gradient_edge(start) if isinstance(start, Tensor) else start


def _after(trace: Trace, node: Node, numbers: dict[Node, int]) -> tuple[Edge | None, ...]:
    uses = trace.by_edge.get(node)
    return tuple(
        None
        if after is None or after not in numbers or (uses is not None and not uses[k])
        else (numbers[after], place)
        for k, (after, place) in enumerate(trace.following.get(node, ()))
    )

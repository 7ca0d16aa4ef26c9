"""The graph below the losses as lists and numbers: what it looks like, and who reaches what."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from ..graph import root
from ..tasks import Tasks

__all__ = ["Edge", "Walk", "walk"]

#: A node by its number, and which of its outputs.
Edge = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """Nodes by number; each has a larger number than all that it leads to.

    Attributes:
        nodes: The nodes.
        names: What they are.
        following: For each operand of each node where its gradient goes; ``None`` for nowhere.
        roots: Where the losses are; ``None`` for a task that is absent.
        leaves: The node of each of P parameters; ``None`` for one that no loss reaches.
    """

    nodes: list[Node]
    names: tuple[str, ...]
    following: tuple[tuple[Edge | None, ...], ...]
    roots: tuple[Edge | None, ...]
    leaves: tuple[int | None, ...]

    @property
    def shape(self) -> Hashable:
        """Equal for graphs with the same nodes in the same places."""
        return self.names, self.following, self.roots, self.leaves

    @cached_property
    def bits(self) -> list[int]:
        """For each node the tasks that reach it, as bits."""
        found = [0] * len(self.nodes)
        for task, edge in enumerate(self.roots):
            if edge is not None:
                found[edge[0]] |= 1 << task
        for place in range(len(found) - 1, -1, -1):
            for after in self.following[place]:
                if after is not None:
                    found[after[0]] |= found[place]
        return found

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
    """Visits every node below the losses once."""
    numbers: dict[Node, int] = {}
    nodes: list[Node] = []
    following: list[tuple[Edge | None, ...]] = []
    roots: list[Edge | None] = []
    for loss in tasks.losses:
        start = None if loss is None else root(loss)
        if isinstance(start, Tensor):
            start = get_gradient_edge(start)
        if start is None:
            roots.append(None)
            continue
        _visit(start.node, numbers, nodes, following)
        roots.append((numbers[start.node], start.output_nr))
    variables = {}
    for place, edges in enumerate(following):
        if not edges:
            variables[id(getattr(nodes[place], "variable", None))] = place
    leaves = tuple(variables.get(id(param)) for param in params)
    names = tuple(node.name() for node in nodes)
    return Walk(nodes, names, tuple(following), tuple(roots), leaves)


def _visit(
    start: Node,
    numbers: dict[Node, int],
    nodes: list[Node],
    following: list[tuple[Edge | None, ...]],
) -> None:
    """Numbers what a node leads to, and then itself."""
    waiting: list[tuple[Node, tuple[tuple[Node | None, int], ...] | None]] = [(start, None)]
    seen = set(numbers)
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

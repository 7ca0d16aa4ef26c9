"""Where the tasks' own parts end: below, one backward goes on for all of them."""

from __future__ import annotations

from .table import VIEWS
from .walk import Edge, Walk

__all__ = ["find_cut"]


def find_cut(graph: Walk) -> tuple[frozenset[int], tuple[Edge, ...]]:
    """The nodes that are differentiated for several tasks at once, and the edges that lead there.

    Each loss is first differentiated down to these edges by itself. That tells its own gradient there only if none of
    them lies below another: nodes above such an edge are left to the first part, and so is a parameter that a loss
    reaches both by itself and through what it shares. A task whose gradient is not finite, or that does not
    reach a part of the graph, is then nothing to the others: nobody multiplies by its zeros.
    """
    zone = {place for place, bits in enumerate(graph.bits) if bits & (bits - 1)}
    ends = _parameters(graph)
    while True:
        cut = {root for root in graph.roots if root is not None and root[0] in zone}
        for place, edges in enumerate(graph.following):
            if place not in zone:
                cut.update(after for after in edges if after is not None and after[0] in zone)
        starts = {place for place, _ in cut}
        leading: set[int] = set()
        for place, edges in enumerate(graph.following):
            if any(e is not None and (e[0] in starts or e[0] in leading) for e in edges):
                leading.add(place)
        above = (leading & zone) | (starts & ends)
        if not above:
            return frozenset(zone), tuple(sorted(cut))
        zone -= above


def _parameters(graph: Walk) -> set[int]:
    """Leaves, and views of them: nothing is left to be done there."""
    found: set[int] = set()
    for place, edges in enumerate(graph.following):
        after = [edge[0] for edge in edges if edge is not None]
        if not edges or (graph.names[place] in VIEWS and all(other in found for other in after)):
            found.add(place)
    return found

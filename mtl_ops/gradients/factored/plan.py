"""What is done for a kind of graph: which parameters are measured in factors, and in which backwards."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .cost import BATCHED_ROWS, SAVING, Cost, cost_of, price_of_double, wide
from .cut import find_cut
from .products import Size, Use
from .table import PRODUCTS
from .uses import find_uses
from .walk import Edge, Walk

__all__ = ["Choice", "Known", "Plan", "make_plan"]

#: ``"auto"``: by factors if that saves a part of the step; ``"factored"``: if it saves anything, or memory;
#: ``"always"``: wherever it can be done, whatever it costs, for tests.
Choice = Literal["auto", "factored", "always"]


@dataclass(frozen=True)
class Known:
    """What earlier steps have found out about a kind of graph.

    Attributes:
        verified: Whether factors gave the gradient that a backward gives.
        direct: Places of the parameters where they did not.
        one_by_one: Whether the tasks are differentiated in turn.
        rows: Whether nothing helps.
    """

    verified: bool = False
    direct: frozenset[int] = frozenset()
    one_by_one: bool = False
    rows: bool = False


@dataclass(frozen=True)
class Plan:
    """How a graph is differentiated, by the numbers of its nodes.

    Attributes:
        uses: Of each parameter that is measured in factors, by place.
        targets: The nodes whose output's gradient is asked for: products, and the leaves of all other parameters.
        zone: The nodes that are differentiated for several tasks at once.
        cut: The edges that lead there.
        groups: Tasks that come in by the same nodes.
        rows: Whether T gradients are better.
        kind: What graphs have in common that were verified together.
        saving: The part of a step that factors save, as estimated.
    """

    uses: dict[int, tuple[Use, ...]]
    targets: tuple[int, ...]
    zone: frozenset[int]
    cut: tuple[Edge, ...]
    groups: tuple[tuple[int, ...], ...]
    rows: bool
    kind: Hashable
    saving: float

    def __str__(self) -> str:
        if self.rows:
            return "one backward for each task"
        if not self.uses:
            return "one batched backward for all tasks"
        how = "batched" if self.groups else "one by one"
        return f"{len(self.uses)} parameters in factors, {how}, saves {100 * self.saving:.0f}%"


def make_plan(
    graph: Walk, params: Sequence[Tensor], choice: Choice, known: dict[Hashable, Known]
) -> Plan:
    """Plans for a graph; the costs are those of the sizes that it has now."""
    bits = graph.bits
    reach = [0 if leaf is None else bits[leaf] for leaf in graph.leaves]
    found: dict[int, tuple[Use, ...]] = {}
    for place, (param, leaf) in enumerate(zip(params, graph.leaves, strict=True)):
        if leaf is not None and reach[place].bit_count() > 1 and param.dim() > 1:
            uses = find_uses(graph, leaf, param.shape)
            if uses is not None:
                found[place] = uses
    forms = {
        (graph.names[u.node], u.operand, u.flipped, u.summed) for f in found.values() for u in f
    }
    kind = frozenset(graph.names), frozenset(forms), tuple(param.shape for param in params)
    before = known.get(kind, Known())
    sizes = {place: _sizes(graph, uses) for place, uses in found.items()}
    costs = {
        place: cost_of(
            sizes[place],
            params[place].numel(),
            reach[place].bit_count(),
            price_of_double(params[place]),
        )
        for place in found
    }
    chosen = {
        place: uses
        for place, uses in found.items()
        if place not in before.direct
        and _fits(sizes[place])
        and (choice == "always" or costs[place].saved > 0)
    }
    saving = _saving(costs, chosen)
    alone = before.one_by_one or (choice != "always" and _slow_to_batch(graph, params, sizes))
    if choice == "auto" and saving < SAVING:
        chosen, saving = {}, 0.0
    # Without factors, too, a batched backward of few rows takes less time.
    few = choice != "always" and not alone and _few_rows(graph, sizes)
    rows = before.rows or not (chosen or few)
    targets = {use.node for uses in chosen.values() for use in uses}
    targets |= {
        leaf for place, leaf in enumerate(graph.leaves) if leaf is not None and place not in chosen
    }
    plan = Plan(chosen, tuple(sorted(targets)), frozenset(), (), (), rows, kind, saving)
    if rows or alone:
        return plan
    plan = _with_cut(plan, graph)
    return plan if chosen or plan.groups else replace(plan, rows=True)


def _sizes(graph: Walk, uses: Sequence[Use]) -> list[Size]:
    return [PRODUCTS[graph.names[use.node]][0](graph.nodes[use.node], use) for use in uses]


def _fits(sizes: Sequence[Size]) -> bool:
    """Whether rows of several uses can be put together: not those of a batch of matrices and of a single one."""
    shapes = {
        (size.batch, *((size.fixed, size.moving) if size.left else (size.moving, size.fixed)))
        for size in sizes
        if size.fixed
    }
    return len(shapes) < 2


def _saving(costs: dict[int, Cost], chosen: dict[int, tuple[Use, ...]]) -> float:
    whole = sum(cost.step for cost in costs.values())
    saved = sum(costs[place].saved for place in chosen)
    return min(1.0, saved / whole) if whole > 0.0 else float(saved > 0.0)


def _slow_to_batch(graph: Walk, params: Sequence[Tensor], sizes: dict[int, list[Size]]) -> bool:
    """Whether tasks in turn are as fast: many rows on a CPU, or convolutions there."""
    if "CompiledFunctionBackward" in graph.names:  # cannot be batched at all
        return True
    if any(param.device.type != "cpu" for param in params):
        return False
    if any("Convolution" in name for name in graph.names):
        return True
    return any(wide(found, _tasks(graph), BATCHED_ROWS) for found in sizes.values())


def _few_rows(graph: Walk, sizes: dict[int, list[Size]]) -> bool:
    """Whether products are known, and all of few rows."""
    tasks = _tasks(graph)
    return bool(sizes) and not any(wide(s, tasks, BATCHED_ROWS // 2) for s in sizes.values())


def _tasks(graph: Walk) -> int:
    return sum(root is not None for root in graph.roots)


def _with_cut(plan: Plan, graph: Walk) -> Plan:
    """The plan of one backward for tasks that come in by the same nodes."""
    zone, cut = find_cut(graph)
    cut = _needed(graph, cut, plan.targets)
    groups: dict[frozenset[int], list[int]] = {}
    for task, root in enumerate(graph.roots):
        entries = frozenset(node for node, _ in cut if graph.bits[node] >> task & 1)
        if root is not None and entries:
            groups.setdefault(entries, []).append(task)
    together = tuple(tuple(tasks) for tasks in groups.values())
    if all(len(tasks) == 1 for tasks in together):
        return plan
    return replace(plan, zone=zone, cut=cut, groups=together)


def _needed(graph: Walk, cut: Sequence[Edge], targets: Sequence[int]) -> tuple[Edge, ...]:
    """Edges that lead to something that is asked for."""
    useful = set(targets)
    for place, edges in enumerate(graph.following):
        if any(edge is not None and edge[0] in useful for edge in edges):
            useful.add(place)
    return tuple(edge for edge in cut if edge[0] in useful)

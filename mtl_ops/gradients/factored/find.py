"""From losses to the factors of their gradients, with what earlier steps have found out."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace

from torch import Tensor
from torch.autograd.graph import Node

from ..differentiate import explain
from ..tasks import Tasks
from .factors import Factor, TaskFactors
from .passes import Found, differentiate
from .plan import Choice, Known, Plan, make_plan
from .products import Product
from .saved import Unreadable, output_shape
from .table import PRODUCTS
from .verify import disagreeing
from .walk import Walk, walk

__all__ = ["Factoring", "find_factors"]

#: Plans that are kept: those of other lengths of a sequence, say, are other graphs.
PLANS = 64


class Factoring:
    """Differentiates losses by factors where that pays, and remembers what it has learnt of each kind of graph.

    The first step of a kind is verified against one backward of the losses with arbitrary weights. That finds out
    hooks that change gradients on their way, and whatever a version of PyTorch saves in another way: a
    parameter where the two differ is measured by its gradients from then on, with a warning.

    Args:
        choice: See :data:`Choice`.
    """

    def __init__(self, choice: Choice = "auto") -> None:
        self.choice = choice
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._known: dict[Hashable, Known] = {}
        self._warned = False

    def factors(
        self, tasks: Tasks, params: Sequence[Tensor], retain_graph: bool
    ) -> TaskFactors | None:
        """The gradients of the tasks; ``None`` if one backward for each is as good, and the graph is as it was.

        Raises:
            RuntimeError: If the graph was freed by an earlier backward.
        """
        if len(tasks.present) < 2:
            return None
        try:
            graph = walk(tasks, params)
            plan = self._plan(graph, params)
            if plan.rows:
                return None
            return self._found(graph, plan, tasks, params, retain_graph)
        except RuntimeError as error:
            explain(error, "one of them")
            raise

    def __repr__(self) -> str:
        found = "; ".join(dict.fromkeys(str(plan) for plan in self._plans.values()))
        return f"Factoring({self.choice!r}{f': {found}' if found else ''})"

    def _plan(self, graph: Walk, params: Sequence[Tensor]) -> Plan:
        shapes = tuple(
            _shape(node)
            for node, name in zip(graph.nodes, graph.names, strict=True)
            if name in PRODUCTS
        )
        key = graph.shape, shapes
        plan = self._plans.get(key)
        if plan is None or self._stale(plan):
            plan = self._plans[key] = make_plan(graph, params, self.choice, self._known)
        self._plans.move_to_end(key)
        if len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        return plan

    def _stale(self, plan: Plan) -> bool:
        """Whether more is known now than when it was made."""
        known = self._known.get(plan.kind, Known())
        batched = bool(plan.groups)
        return (
            known.rows > plan.rows
            or bool(known.direct & plan.uses.keys())
            or (known.one_by_one and batched)
        )

    def _found(
        self, graph: Walk, plan: Plan, tasks: Tasks, params: Sequence[Tensor], retain_graph: bool
    ) -> TaskFactors | None:
        known = self._known.get(plan.kind, Known())
        first = not known.verified
        keep = retain_graph or first
        factors: TaskFactors | None = find_factors(graph, tasks, params, plan, keep, first)
        assert factors is not None
        if plan.groups and not factors.batched:
            known = replace(known, one_by_one=True)
        if not first:
            return factors
        off = disagreeing(factors, tasks, params)
        if off is None:  # not finite: nothing can be told
            self._known[plan.kind] = known
            return factors
        if off:
            factors, known = self._again(graph, plan, tasks, params, off, known)
        self._known[plan.kind] = replace(known, verified=True)
        return factors

    def _again(
        self,
        graph: Walk,
        plan: Plan,
        tasks: Tasks,
        params: Sequence[Tensor],
        off: Sequence[int],
        known: Known,
    ) -> tuple[TaskFactors | None, Known]:
        """Without what disagreed, and each loss by itself."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                'Parameter `gradients` should be "dense" where something changes gradients on their way, a hook of an '
                f"intermediate tensor, say: those of {len(off)} of {len(params)} parameters, which a backward computes "
                "otherwise than their factors do, are computed for each task. Found the first with shape "
                f"{tuple(params[off[0]].shape)}.",
                stacklevel=2,
            )
        known = replace(known, direct=known.direct | frozenset(off), one_by_one=True)
        learnt = {**self._known, plan.kind: known}
        plan = make_plan(graph, params, self.choice, learnt)
        if not plan.rows:
            factors = find_factors(graph, tasks, params, plan, True, False)
            if not disagreeing(factors, tasks, params):
                return factors, known
        return None, replace(known, rows=True)


def find_factors(
    graph: Walk,
    tasks: Tasks,
    params: Sequence[Tensor],
    plan: Plan,
    retain_graph: bool,
    first: bool,
) -> TaskFactors:
    """Runs the backwards of a plan.

    Args:
        graph: Of the losses.
        tasks: T losses.
        params: P parameters.
        plan: For this graph.
        retain_graph: Keeps the graph for another backward.
        first: Whether it is not known yet if this kind of graph can be batched.

    Raises:
        RuntimeError: If the graph was freed by an earlier backward.
    """
    products = _read(graph, plan)  # before the backward that frees what was saved
    found, batched = differentiate(graph, tasks, plan, retain_graph, first)
    count, total = len(params), len(tasks.losses)
    rows: list[Tensor | None] = [None] * (total * count)
    for place, leaf in enumerate(graph.leaves):
        if leaf is not None and place not in plan.uses:
            for task in range(total):
                rows[task * count + place] = found[task].get(leaf)
    factors = {
        place: Factor(used, [_of_node(found, use.node) for use in plan.uses[place]])
        for place, used in products.items()
    }
    factors = {place: _with_gradients(factor) for place, factor in factors.items()}
    factors = {place: factor for place, factor in factors.items() if factor.products}
    reached: list[object | None] = list(rows)
    for place, factor in factors.items():
        for task in factor.tasks:
            reached[task * count + place] = factor
    return TaskFactors(total, reached, rows, factors, batched)


def _shape(node: Node) -> tuple[int, ...] | None:
    try:
        return tuple(output_shape(node))
    except Unreadable:
        return None


def _read(graph: Walk, plan: Plan) -> dict[int, list[Product]]:
    try:
        return {
            place: [PRODUCTS[graph.names[use.node]][1](graph.nodes[use.node], use) for use in uses]
            for place, uses in plan.uses.items()
        }
    except Unreadable as error:  # what was readable in a graph of the same shape
        raise RuntimeError(f"The graph of the losses cannot be read: {error}.") from None


def _of_node(found: Found, node: int) -> list[Tensor | None]:
    return [by_node.get(node) for by_node in found]


def _with_gradients(factor: Factor) -> Factor:
    """Without uses of which no task has a gradient."""
    used = [
        (product, by_task)
        for product, by_task in zip(factor.products, factor.deltas, strict=True)
        if any(delta is not None for delta in by_task)
    ]
    return Factor([product for product, _ in used], [by_task for _, by_task in used])

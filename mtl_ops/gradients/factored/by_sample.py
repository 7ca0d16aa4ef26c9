"""From a tensor of samples' losses to the factors of their gradients."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..differentiate import explain
from ..layout import find_layout
from ..rows import dense
from ..streams import lent
from ..tasks import Tasks
from .owners import MIXED, Order, find_owners, owners, probe
from .products import MatrixProduct, Product
from .samples import SampleFactors, Summed, Used
from .saved import Unreadable
from .sums import RowSum, find_sums
from .table import PRODUCTS
from .uses import find_uses
from .verify import limit_of
from .walk import Walk, walk_from

__all__ = ["BySample"]

_KNOWN = (
    'Parameter `gradients` should be "dense" for a model that uses its parameters otherwise than in products and sums. '
    "Found one of shape"
)
#: Kinds of graphs whose orders are kept: those of other lengths of a sequence, say, may be others.
KINDS = 64
_BATCH_NORMS = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0")


@dataclass
class _Reading:
    """One parameter: its uses, read, and the nodes whose outputs' gradients they need."""

    products: list[Product]
    sums: list[RowSum]
    nodes: list[int]


class BySample:
    """Differentiates the losses of single samples in one backward of their sum.

    In the first step of a kind of graph another backward, of a weighted sum, tells which sample each row belongs to,
    and whether some see each other; its gradient is compared with that of the factors. The order of the rows is
    remembered; where it is neither sample by sample nor position by position, the second backward is taken in
    every step.
    """

    choice = "by_sample"

    def __init__(self) -> None:
        self._orders: dict[Hashable, dict[int, Order]] = {}

    def __repr__(self) -> str:
        return "BySample()"

    def factors(
        self, tasks: Tasks, params: Sequence[Tensor], retain_graph: bool
    ) -> SampleFactors | None:
        """The gradients of the losses; ``None`` for a single one.

        Raises:
            ValueError: If the losses are not one tensor, samples see each other, or a parameter is used in a way that
                is not known.
            RuntimeError: If the graph was freed by an earlier backward.
        """
        if len(tasks.losses) < 2:
            return None
        start, count = _start(tasks), len(tasks.losses)
        try:
            graph = walk_from(start, params)
            _refuse_batch_norm(graph)
            readings = _read(graph, params)
            return self._found(graph, start, tasks, params, readings, retain_graph, count)
        except RuntimeError as error:
            explain(error, "one of them")
            raise

    def _found(
        self,
        graph: Walk,
        start: GradientEdge,
        tasks: Tasks,
        params: Sequence[Tensor],
        readings: dict[int, _Reading],
        retain_graph: bool,
        count: int,
    ) -> SampleFactors:
        nodes = list(dict.fromkeys(node for one in readings.values() for node in one.nodes))
        edges = [GradientEdge(graph.nodes[node], 0) for node in nodes]
        ones = _factors(tasks)
        kind = graph.shape
        orders = self._orders.get(kind)
        keep = retain_graph or orders is None
        got = dict(zip(nodes, _grad([start], edges, [ones], keep), strict=True))
        if orders is not None:
            return _assembled(graph, tasks, readings, got, orders, None)
        weights = probe(count, ones)
        leaves = [params[place] for place in readings]
        other = _grad([start], [*edges, *leaves], [ones * weights], retain_graph)
        probed = dict(zip(nodes, other[: len(nodes)], strict=True))
        found: dict[int, Order | None] = {}
        result = _assembled(graph, tasks, readings, got, found, (probed, weights))
        _compare(result, params, list(readings), other[len(nodes) :], weights)
        known = {node: order for node, order in found.items() if order is not None}
        finite = all(bool(gradient.isfinite().all()) for gradient in other)
        if finite and len(known) == len(found):
            self._orders[kind] = known
            if len(self._orders) > KINDS:
                del self._orders[next(iter(self._orders))]
        return result


def _start(tasks: Tasks) -> GradientEdge:
    """The tensor ``(B,)`` that the losses are the elements of.

    Raises:
        ValueError: If they are not those of one tensor.
    """
    nodes = {loss.grad_fn for loss in tasks.losses if loss is not None}
    node = nodes.pop()
    if node is None or nodes or node.name() != "UnbindBackward0":
        raise ValueError(
            "Parameter `losses` should be one tensor of shape (B,), a loss for each sample, to be differentiated by "
            "sample. Found several tensors."
        )
    before, place = node.next_functions[0]
    if before is None or before.name() == "StackBackward0":
        raise ValueError(f"{MIXED} several tensors, which were stacked.")
    return GradientEdge(before, place)


def _factors(tasks: Tasks) -> Tensor:
    """``(B,)``, what the gradient of each loss is multiplied by; 0 for one that takes no part."""
    some = next(loss for loss in tasks.losses if loss is not None)
    part = [float(loss is not None) for loss in tasks.losses]
    factors = some.new_ones(len(part)) if all(part) else some.new_tensor(part)
    return factors if tasks.scale is None else factors * tasks.scale.to(factors.dtype)


def _refuse_batch_norm(graph: Walk) -> None:
    for node, name in zip(graph.nodes, graph.names, strict=True):
        if name in _BATCH_NORMS and getattr(node, "_saved_training", True):
            raise ValueError(f"{MIXED} batch normalisation in training.")


def _read(graph: Walk, params: Sequence[Tensor]) -> dict[int, _Reading]:
    """How each parameter that a loss reaches is used.

    Raises:
        ValueError: If one is used in a way that is not known.
    """
    readings = {}
    for place, (param, leaf) in enumerate(zip(params, graph.leaves, strict=True)):
        if leaf is None:
            continue
        uses = find_uses(graph, leaf, param.shape) if param.dim() > 1 else None
        if uses is not None:
            products = [
                PRODUCTS[graph.names[use.node]][1](graph.nodes[use.node], use) for use in uses
            ]
            if all(not isinstance(p, MatrixProduct) or len(p.matrix) == 1 for p in products):
                readings[place] = _Reading(products, [], [use.node for use in uses])
                continue
        try:
            sums = find_sums(graph, leaf, param)
        except Unreadable as error:
            raise ValueError(f"{_KNOWN} {tuple(param.shape)} in {error}.") from None
        readings[place] = _Reading([], sums, [one.node for one in sums])
    return readings


def _grad(
    outputs: Sequence[GradientEdge],
    inputs: Sequence[Any],
    given: Sequence[Tensor],
    keep: bool,
) -> list[Tensor]:
    with lent(outputs, given[0].device) as other:
        found = torch.autograd.grad(outputs, inputs, given, retain_graph=keep)
    if other is not None:
        other.keep(found)
    return [dense(gradient) for gradient in found]


def _assembled(
    graph: Walk,
    tasks: Tasks,
    readings: dict[int, _Reading],
    got: dict[int, Tensor],
    orders: dict[int, Order | None] | dict[int, Order],
    probed: tuple[dict[int, Tensor], Tensor] | None,
) -> SampleFactors:
    """The factors, with the owners of the rows by their known orders, or found out now."""
    count = len(tasks.losses)

    def owners_of(node: int, rows: Tensor, other: Tensor | None) -> Tensor:
        if probed is None or other is None:
            order = orders[node]
            assert order is not None
            return owners(order, len(rows), count, rows.device)
        order, found = find_owners(rows, other, probed[1])
        orders[node] = order if orders.get(node, order) == order else None  # type: ignore[assignment]
        return found

    result: dict[int, Used | Summed] = {}
    for place, one in readings.items():
        deltas = [got[node] for node in one.nodes]
        others = [None if probed is None else probed[0][node] for node in one.nodes]
        turns = zip(one.nodes, deltas, others, strict=True)
        if one.products:
            whose = [
                owners_of(node, product.rows(delta), None if other is None else product.rows(other))
                for product, (node, delta, other) in zip(one.products, turns, strict=True)
            ]
            result[place] = Used(one.products, deltas, whose)
        else:
            terms = [use.terms(delta) for use, delta in zip(one.sums, deltas, strict=True)]
            whose = [
                owners_of(node, rows, None if other is None else use.terms(other))
                for use, rows, (node, _, other) in zip(one.sums, terms, turns, strict=True)
            ]
            result[place] = Summed(terms, whose)
    present = [loss is not None for loss in tasks.losses]
    reached: list[object | None] = [
        result.get(place) if there else None
        for there in present
        for place in range(len(graph.leaves))
    ]
    device = next(iter(got.values())).device
    return SampleFactors(count, reached, result, device)


def _compare(
    found: SampleFactors,
    params: Sequence[Tensor],
    places: Sequence[int],
    expected: Sequence[Tensor],
    weights: Tensor,
) -> None:
    """Raises a ValueError if the factors merge to another gradient than a backward computes."""
    layout = find_layout(found.reached, found.tasks, None, [True] * len(params))
    merged = [torch.empty_like(params[place]) for place in places]
    found.merge_(merged, weights.double().unsqueeze(0), layout)
    whole = torch.stack([torch.linalg.vector_norm(true.double()) for true in expected]).norm()
    for place, ours, true in zip(places, merged, expected, strict=True):
        error = torch.linalg.vector_norm(ours.double() - true.double())
        if bool(error > limit_of({params[place].dtype, weights.dtype}) * whole):
            raise ValueError(
                f"{_KNOWN} {tuple(params[place].shape)}, of which a backward computes another gradient."
            )

"""From a parameter to its uses: which nodes read it, and through which views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.graph import Node

from .products import MATRIX_PRODUCTS, Use
from .saved import Unreadable, output_shape
from .table import PRODUCTS, VIEWS
from .walk import Walk

__all__ = ["find_uses"]

#: Converts, or copies: the elements keep their places.
_IN_PLACE = frozenset({"ToCopyBackward0", "CloneBackward0", "AliasBackward0"})
_EXPAND = "ExpandBackward0"


def find_uses(graph: Walk, leaf: int, shape: torch.Size) -> tuple[Use, ...] | None:
    """All uses of a parameter; ``None`` if one of them is not a known product."""
    found: list[Use] = []
    waiting: list[tuple[int, tuple[int, ...]]] = [(leaf, ())]
    try:
        while waiting:
            place, chain = waiting.pop()
            for parent, operand in graph.parents[place]:
                name = graph.names[parent]
                if name in VIEWS or name == _EXPAND:
                    waiting.append((parent, (*chain, parent)))
                elif name in PRODUCTS:
                    found.append(_use(graph, parent, operand, chain, shape))
                else:
                    return None
    except Unreadable:
        return None
    return tuple(found) or None


def _use(graph: Walk, place: int, operand: int, chain: Sequence[int], shape: torch.Size) -> Use:
    """A node that reads the parameter through a chain of views, of which the first is nearest to it."""
    nodes = [graph.nodes[view] for view in chain]
    seen = output_shape(nodes[-1]) if nodes else shape
    summed = any(node.name() == _EXPAND for node in nodes)
    if summed:
        nodes, seen = _below_expand(nodes, seen, shape, graph.names[place])
    flipped = _is_flipped(nodes, seen, shape) if nodes else False
    use = Use(place, operand, flipped, summed, shape)
    PRODUCTS[graph.names[place]][0](graph.nodes[place], use)  # raises what cannot be read
    return use


def _below_expand(
    nodes: Sequence[Node], seen: torch.Size, shape: torch.Size, product: str
) -> tuple[list[Node], torch.Size]:
    """The views between the parameter and where it is repeated for a batch, and what they show of it.

    Raises:
        Unreadable: If it is repeated in another way than once for each matrix of the batch.
    """
    names = [node.name() for node in nodes]
    first = names.index(_EXPAND)
    # Above, leading dimensions may only be put together.
    plain = {_EXPAND, "ReshapeAliasBackward0", "UnsafeViewBackward0", "ViewBackward0"} | _IN_PLACE
    last = max(place for place, name in enumerate(names) if name == _EXPAND)
    wide = output_shape(nodes[last])
    matrix = seen[-2:]
    batched = product in MATRIX_PRODUCTS and MATRIX_PRODUCTS[product][3]
    known = set(names[first:]) <= plain and batched and len(seen) == 3 and wide[-2:] == matrix
    if not known or matrix.numel() != shape.numel() or wide.numel() != seen.numel():
        raise Unreadable("a parameter that is repeated in another way")
    return list(nodes[:first]), matrix


def _is_flipped(nodes: Sequence[Node], seen: torch.Size, shape: torch.Size) -> bool:
    """Whether what the views show, ``(m, n)`` or a batch of it, is the transpose of the parameter.

    A backward of views is views: what it makes of a tensor without elements tells where they would go.

    Raises:
        Unreadable: If it is neither that nor the parameter as it is.
    """
    start = torch.empty(seen, device="meta")
    found = start
    for node in reversed(nodes):
        if node.name() in _IN_PLACE:
            continue
        try:
            found = node(found.reshape(output_shape(node)))  # type: ignore[operator]
        except (RuntimeError, TypeError):
            raise Unreadable(f"{node.name()} is no plain view") from None
    if found.shape != shape and found.numel() == shape.numel():
        found = found.reshape(shape)
    if found.shape != shape:
        raise Unreadable("a view of another size")
    as_it_is = _same_places(found, start.view(shape))
    try:
        turned = _same_places(found, start.mT.view(shape))
    except RuntimeError:  # the transpose is no view of that shape
        turned = False
    if not as_it_is and not turned:
        raise Unreadable("a view in another order")
    # A single row is both, and has the sides that its shape tells.
    return turned and (not as_it_is or seen[-2:] != shape[-2:])


def _same_places(a: torch.Tensor, b: torch.Tensor) -> bool:
    sizes = enumerate(a.shape)
    return all(a.stride(k) == b.stride(k) for k, size in sizes if size != 1)

"""Uses of a parameter whose gradient is ``Uᵀ V``: tables, of which U picks rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .products import Product, Size, Use, times
from .saved import Unreadable, is_unpacked, number, output_shape, saved

__all__ = ["Lookup", "read_bag", "read_lookup", "size_of_bag", "size_of_lookup"]

_MAX = 2


@dataclass
class Lookup(Product):
    """Rows of a table by number, or sums of them.

    Attributes:
        ids: ``(R,)`` int64, the rows; -1 for those without a gradient.
        bags: ``(R,)`` int64, the row of the output that each adds to; ``None`` for its own.
        factors: ``(R,)``, what each is multiplied by there; ``None`` for 1.
    """

    ids: Tensor
    shape: torch.Size
    bags: Tensor | None = None
    factors: Tensor | None = None
    left: bool = True

    def fixed(self) -> Tensor:
        return self.ids

    def moving(self, delta: Tensor) -> Tensor:
        rows = delta.reshape(-1, delta.shape[-1])
        if self.bags is not None:
            rows = rows[self.bags]
        if self.factors is not None:
            rows = rows * self.factors.to(rows.dtype).unsqueeze(1)
        return torch.where((self.ids >= 0).unsqueeze(1), rows, 0).unsqueeze(0)

    def rows(self, delta: Tensor) -> Tensor:
        return delta.reshape(-1, delta.shape[-1])

    def scaled(self, delta: Tensor, factors: Tensor) -> Tensor:
        return times(delta, factors.reshape(*delta.shape[:-1], 1))

    def add_(self, out: Tensor, mixed: Tensor, beta: float) -> None:
        if beta == 0.0:
            out.zero_()
        out.index_add_(0, self.ids.clamp(min=0), self.moving(mixed)[0].to(out.dtype))


def _ids(node: Node) -> Tensor:
    ids: Tensor = saved(node, "indices").flatten().long()
    padding = number(node, "padding_idx")
    return ids if padding < 0 else torch.where(ids == padding, -1, ids)


def _check(node: Node, use: Use, *names: str) -> None:
    plain = not (use.flipped or use.summed or saved(node, "scale_grad_by_freq"))
    if use.operand != 0 or not plain or is_unpacked(node, *names):
        raise Unreadable("a table that counts how often its rows are used, or has hooks")


def size_of_lookup(node: Node, use: Use) -> Size:
    """See :class:`Size`.

    Raises:
        Unreadable: If gradients are scaled by how often a row is used.
    """
    _check(node, use, "indices")
    rows: int = saved(node, "indices").numel()
    return Size(1, rows, 0, use.shape[1], left=True)


def read_lookup(node: Node, use: Use) -> Lookup:
    """Reads a use as the table of ``embedding``.

    Raises:
        Unreadable: As :func:`size_of_lookup`.
    """
    _check(node, use, "indices")
    return Lookup(_ids(node), use.shape)


def size_of_bag(node: Node, use: Use) -> Size:
    """See :class:`Size`.

    Raises:
        Unreadable: If a bag is the largest of its rows, or is weighed by what learns itself.
    """
    _check(node, use, "indices", "offsets")
    learns = any(after is not None for after, _ in node.next_functions[1:])
    if saved(node, "mode") == _MAX or learns:
        raise Unreadable("a bag that is no sum with known weights")
    rows: int = saved(node, "indices").numel()
    return Size(1, rows, 0, use.shape[1], left=True)


def read_bag(node: Node, use: Use) -> Lookup:
    """Reads a use as the table of ``embedding_bag``.

    Raises:
        Unreadable: As :func:`size_of_bag`.
    """
    size_of_bag(node, use)
    ids = _ids(node)
    count = output_shape(node)[0]
    starts: Tensor = saved(node, "offsets")
    places = torch.arange(len(ids), device=ids.device)
    bags = (torch.bucketize(places, starts.long(), right=True) - 1).clamp(max=count - 1)
    weights: Tensor | None = saved(node, "per_sample_weights")
    if saved(node, "mode") == 1:
        kept = (ids >= 0).double()
        size = torch.zeros(count, dtype=torch.float64, device=ids.device).index_add_(0, bags, kept)
        return Lookup(ids, use.shape, bags, size.clamp(min=1).reciprocal()[bags])
    factors = None if weights is None else weights.detach().flatten()
    return Lookup(ids, use.shape, bags, factors)

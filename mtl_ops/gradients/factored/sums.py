"""Uses of a parameter whose gradient is a sum of rows: biases, and the factors of normalisations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node

from .products import times
from .saved import Unreadable, is_unpacked, output_shape, saved
from .walk import Walk

__all__ = ["RowSum", "find_sums", "merged_sum"]


@dataclass
class RowSum:
    """A use, read: the gradient is the sum of what the rows of the output's gradient are turned into.

    Attributes:
        node: The number of the node.
        terms: From the output's gradient to ``(R, elements)``.
    """

    node: int
    terms: Callable[[Tensor], Tensor]


def find_sums(graph: Walk, leaf: int, param: Tensor) -> list[RowSum]:
    """All uses of a parameter.

    Raises:
        Unreadable: If one of them is not known.
    """
    found = []
    for place, operand in graph.parents[leaf]:
        name = graph.names[place]
        read = _READERS.get(name)
        if read is None:
            raise Unreadable(name)
        found.append(RowSum(place, read(graph.nodes[place], operand, param)))
    return found


Terms = Callable[[Tensor], Tensor]


def _trailing(node: Node, param: Tensor) -> int:
    """The number of elements of a parameter that is added to each row.

    Raises:
        Unreadable: If the rows are not of its shape.
    """
    shape = param.shape
    while shape and shape[0] == 1:
        shape = shape[1:]
    if output_shape(node)[-len(shape) or len(output_shape(node)) :] != shape:
        raise Unreadable(f"{node.name()} of another shape")
    return param.numel()


def _added(node: Node, operand: int, param: Tensor) -> Terms:
    count = _trailing(node, param)
    if operand == 1 and saved(node, "alpha") != 1:
        raise Unreadable(f"{node.name()} has a factor")
    return lambda delta: delta.reshape(-1, count)


def _bias(node: Node, operand: int, param: Tensor) -> Terms:
    if operand != 0 or param.dim() != 1:
        raise Unreadable(node.name())
    return lambda delta: delta.reshape(-1, delta.shape[-1])


def _multiplied(node: Node, operand: int, param: Tensor) -> Terms:
    count, name = _trailing(node, param), ("other", "self")[operand]
    if is_unpacked(node, name):
        raise Unreadable(node.name())
    other: Tensor = saved(node, name).detach()
    return lambda delta: (delta * other).reshape(-1, count)


def _channels(rows: Tensor) -> Tensor:
    """``(B, C, *space)`` as rows of C."""
    return rows.movedim(1, -1).reshape(-1, rows.shape[1])


def _convolved(node: Node, operand: int, param: Tensor) -> Terms:
    if operand != 2:
        raise Unreadable(node.name())
    return _channels


def _layer_norm(node: Node, operand: int, param: Tensor) -> Terms:
    count = param.numel()
    if operand == 2:
        return lambda delta: delta.reshape(-1, count)
    if is_unpacked(node, "input"):
        raise Unreadable(node.name())
    mean, scale = saved(node, "result1"), saved(node, "result2")
    given: Tensor = saved(node, "input").detach()
    return lambda delta: (delta * (given - mean) * scale).reshape(-1, count)


def _group_norm(node: Node, operand: int, param: Tensor) -> Terms:
    if operand == 2:
        return _channels
    if is_unpacked(node, "input"):
        raise Unreadable(node.name())
    mean, scale = (saved(node, name).unsqueeze(2) for name in ("result1", "result2"))
    given: Tensor = saved(node, "input").detach()

    def terms(delta: Tensor) -> Tensor:
        grouped = given.reshape(*mean.shape[:2], -1)
        return _channels(delta * ((grouped - mean) * scale).reshape(given.shape))

    return terms


_READERS: dict[str, Callable[[Node, int, Tensor], Terms]] = {
    "AddBackward0": _added,
    "AddmmBackward0": _bias,
    "ConvolutionBackward0": _convolved,
    "MulBackward0": _multiplied,
    "NativeGroupNormBackward0": _group_norm,
    "NativeLayerNormBackward0": _layer_norm,
}


def merged_sum(terms: Tensor, factors: Tensor) -> Tensor:
    """The sum of the rows, each times a factor."""
    return times(terms, factors.unsqueeze(1)).sum(dim=0)

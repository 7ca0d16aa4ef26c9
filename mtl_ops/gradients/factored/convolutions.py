"""Uses of a parameter whose gradient is ``Uᵀ V``: convolutions, with V the windows of the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .products import Product, Size, Use, times, write_
from .saved import Unreadable, is_unpacked, output_shape, saved

__all__ = ["Convolution", "read_convolution", "size_of_convolution"]


@dataclass
class Convolution(Product):
    """A convolution without groups; the windows are cut out of the input only while G is measured.

    Attributes:
        given: ``(B, C, *space)``, the input.
        settings: Stride, padding and dilation, each of as many numbers as there are dimensions of space.
    """

    given: Tensor
    settings: tuple[list[int], list[int], list[int]]
    shape: torch.Size
    left: bool = False

    def fixed(self) -> Tensor:
        """``(1, B·positions, C·window)``."""
        stride, padding, dilation = self.settings
        around = [pad for size in reversed(padding) for pad in (size, size)]
        given = torch.nn.functional.pad(self.given, around) if any(around) else self.given
        batch, channels, *space = given.shape
        window = self.shape[2:]
        positions = [
            (size - step * (width - 1) - 1) // hop + 1
            for size, step, width, hop in zip(space, dilation, window, stride, strict=True)
        ]
        first, channel, *steps = given.stride()
        hops = [step * hop for step, hop in zip(steps, stride, strict=True)]
        inside = [step * far for step, far in zip(steps, dilation, strict=True)]
        windows = given.as_strided(
            (batch, *positions, channels, *window), (first, *hops, channel, *inside)
        )
        return windows.reshape(1, batch * math.prod(positions), -1)

    def moving(self, delta: Tensor) -> Tensor:
        return delta.movedim(1, -1).reshape(1, -1, delta.shape[1])

    def rows(self, delta: Tensor) -> Tensor:
        return self.moving(delta)[0]

    def scaled(self, delta: Tensor, factors: Tensor) -> Tensor:
        return times(delta, factors.reshape(len(delta), *delta.shape[2:]).unsqueeze(1))

    def add_(self, out: Tensor, mixed: Tensor, beta: float) -> None:
        stride, padding, dilation = self.settings
        nothing = mixed.new_empty(1).expand(self.shape)  # of the weight only the shape is asked
        where: list[Any] = [stride, padding, dilation, False, [0] * len(stride), 1]
        gradient = torch.ops.aten.convolution_backward(
            mixed, self.given, nothing, None, *where, [False, True, False]
        )[1]
        write_(out, gradient, beta)


def _check(node: Node, use: Use) -> None:
    plain = not (saved(node, "transposed") or use.flipped or use.summed)
    if use.operand != 1 or saved(node, "groups") != 1 or not plain or is_unpacked(node, "input"):
        raise Unreadable("a convolution that is grouped, transposed or has hooks")


def size_of_convolution(node: Node, use: Use) -> Size:
    """See :class:`Size`.

    Raises:
        Unreadable: If the convolution is grouped or transposed, or the parameter is not its weight.
    """
    _check(node, use)
    batch, channels, *space = output_shape(node)
    rows, columns = batch * math.prod(space), math.prod(use.shape[1:])
    return Size(1, rows, columns, channels, left=False, extra=4.0 * rows * columns)


def read_convolution(node: Node, use: Use) -> Convolution:
    """Reads a use as the weight of a convolution.

    Raises:
        Unreadable: As :func:`size_of_convolution`.
    """
    _check(node, use)
    settings = tuple(list(saved(node, name)) for name in ("stride", "padding", "dilation"))
    given: Tensor = saved(node, "input").detach()
    return Convolution(given, settings, use.shape)  # type: ignore[arg-type]

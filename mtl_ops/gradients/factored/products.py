"""Uses of a parameter whose gradient is ``Uᵀ V``: matrix products.

A use is read once from each graph, before the pass that frees it. What was saved is the *fixed* factor, the same for
all tasks; the gradient of the node's output, by task, gives the *moving* one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .saved import Unreadable, is_unpacked, output_shape, saved

__all__ = [
    "MATRIX_PRODUCTS",
    "MatrixProduct",
    "Product",
    "Size",
    "Use",
    "read_matrix",
    "size_of_matrix",
]


@dataclass(frozen=True)
class Use:
    """A node that reads a parameter, seen through transposes and views, as far as it is the same in every step.

    Attributes:
        node: Its number.
        operand: Which of its operands the parameter is.
        flipped: Whether it reads the transpose.
        summed: Whether it reads the parameter once for each of a batch of products.
        shape: Of the parameter.
    """

    node: int
    operand: int
    flipped: bool
    summed: bool
    shape: torch.Size


@dataclass(frozen=True)
class Size:
    """How large the factors of a use are.

    Attributes:
        batch: E products side by side; 1 but for a batch of matrices that is a parameter.
        rows: R, over which each product sums.
        fixed: Columns of the factor that all tasks share; 0 if its rows are one-hot.
        moving: Columns of the factor that each task has.
        left: Whether the fixed factor is on the side of the parameter's first dimension.
        extra: Multiplications that reading the fixed factor takes besides.
    """

    batch: int
    rows: int
    fixed: int
    moving: int
    left: bool
    extra: float = 0.0


class Product(ABC):
    """A use of a parameter, read: its gradient is ``Uᵀ V``, of E products side by side.

    Attributes:
        left: Whether the fixed factor is U, whose columns are the parameter's first dimension.
        shape: Of the parameter.
    """

    left: bool
    shape: torch.Size

    @abstractmethod
    def fixed(self) -> Tensor:
        """``(E, R, columns)``; or ``(R,)`` int64, rows that are one-hot, of zeros where it is -1."""

    @abstractmethod
    def moving(self, delta: Tensor) -> Tensor:
        """``(E, R, columns)`` from the gradient of the node's output."""

    @abstractmethod
    def rows(self, delta: Tensor) -> Tensor:
        """``(R', columns)``: the gradient of the output, each row of it once."""

    @abstractmethod
    def scaled(self, delta: Tensor, factors: Tensor) -> Tensor:
        """The gradient of the output with each of its R' rows times a factor; a row with the factor 0 is not read."""

    @abstractmethod
    def add_(self, out: Tensor, mixed: Tensor, beta: float) -> None:
        """Writes ``beta out + Uᵀ V`` to ``out``, of the parameter's shape; ``mixed`` is a gradient of the output."""


@dataclass
class MatrixProduct(Product):
    """``a @ b``, or a batch of them.

    Attributes:
        matrix: ``(E, R, columns)``, the fixed factor.
        turned: Whether the moving factor is the transpose of the output's gradient.
        summed: Whether a batch of products is one product with all their rows.
    """

    matrix: Tensor
    left: bool
    shape: torch.Size
    turned: bool
    summed: bool

    def fixed(self) -> Tensor:
        return self.matrix

    def moving(self, delta: Tensor) -> Tensor:
        if self.turned:
            delta = delta.mT
        if self.summed:
            return delta.reshape(1, -1, delta.shape[-1])
        return delta.reshape(-1, *delta.shape[-2:])

    def rows(self, delta: Tensor) -> Tensor:
        moving = self.moving(delta)
        return moving.reshape(-1, moving.shape[-1])

    def scaled(self, delta: Tensor, factors: Tensor) -> Tensor:
        shape = (*delta.shape[:-2], -1)
        by_row = factors.reshape(shape).unsqueeze(-2 if self.turned else -1)
        return times(delta, by_row)

    def add_(self, out: Tensor, mixed: Tensor, beta: float) -> None:
        add_product_(out, self.matrix, self.moving(mixed), self.left, beta)


def add_product_(out: Tensor, fixed: Tensor, moving: Tensor, left: bool, beta: float) -> None:
    """Writes ``beta out + Uᵀ V``, without a copy where the layouts allow it."""
    u, v = (fixed, moving) if left else (moving, fixed)
    if out.is_contiguous() and out.dtype == u.dtype:
        if len(u) == 1:
            out.view(u.shape[2], v.shape[2]).addmm_(u[0].mT, v[0], beta=beta)
        else:
            out.view(len(u), u.shape[2], v.shape[2]).baddbmm_(u.mT, v, beta=beta)
        return
    write_(out, torch.bmm(u.mT, v).reshape(out.shape), beta)


def times(delta: Tensor, factors: Tensor) -> Tensor:
    """The product, and 0 where a factor is, whatever it is multiplied with."""
    factors = factors.to(delta.dtype)
    return torch.where(factors == 0.0, 0.0, delta * factors)


def write_(out: Tensor, gradient: Tensor, beta: float) -> None:
    """Adds a gradient of any dtype, or writes it where ``beta`` is 0."""
    if beta == 0.0:
        out.copy_(gradient)
    else:
        out.add_(gradient)


#: Operands of ``left @ right`` by place, the names they are saved under, and whether they can be a batch.
MATRIX_PRODUCTS: dict[str, tuple[int, str, str, bool]] = {
    "MmBackward0": (0, "self", "mat2", False),
    "AddmmBackward0": (1, "mat1", "mat2", False),
    "BmmBackward0": (0, "self", "mat2", True),
    "BaddbmmBackward0": (1, "batch1", "batch2", True),
}


def _other(node: Node, operand: int) -> tuple[str, bool]:
    """The name of what the parameter is multiplied by, and whether the parameter is on the left.

    Raises:
        Unreadable: If the operand is not one of a product, or the product has a factor.
    """
    first, left, right, _ = MATRIX_PRODUCTS[node.name()]
    if operand not in (first, first + 1) or (first == 1 and saved(node, "alpha") != 1):
        raise Unreadable(f"{node.name()} has a factor, or reads it elsewhere")
    name = right if operand == first else left
    if is_unpacked(node, name):
        raise Unreadable(f"{node.name()} has a hook on what was saved")
    return name, operand == first


def size_of_matrix(node: Node, use: Use) -> Size:
    """See :class:`Size`.

    Raises:
        Unreadable: If the node is not such a product.
    """
    name, on_left = _other(node, use.operand)
    *batch, rows, columns = output_shape(node)
    other = saved(node, name)
    count, moving = (columns, rows) if on_left else (rows, columns)
    fixed = other.shape[-2] if on_left else other.shape[-1]
    each = batch[0] if batch else 1
    products, rows = (1, each * count) if use.summed else (each, count)
    return Size(products, rows, fixed, moving, (not on_left) != use.flipped)


def read_matrix(node: Node, use: Use) -> MatrixProduct:
    """Reads a use of ``left @ right``.

    With ``out = left @ right``: the gradient of ``right`` is ``leftᵀ delta``, that of ``left`` is ``delta rightᵀ``.

    Raises:
        Unreadable: If the node is not such a product.
    """
    name, on_left = _other(node, use.operand)
    other: Tensor = saved(node, name).detach()
    matrix = other.mT if on_left else other
    rows = -1 if use.summed else matrix.shape[-2]
    matrix = matrix.reshape(-1 if not use.summed else 1, rows, matrix.shape[-1])
    return MatrixProduct(matrix, (not on_left) != use.flipped, use.shape, on_left, use.summed)

"""What the nodes of autograd tell of themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

__all__ = ["dim_of", "name_of", "named_by_type", "readable", "shape_of", "signed"]

#: The names of nodes by their types, where all nodes of a type have the same.
_NAMES: dict[type, str] = {}


def name_of(node: Node) -> str:
    """As ``node.name()``, which torch works out anew every time."""
    return _NAMES.get(type(node)) or _named(node)


def named_by_type(node: Node, name: str) -> bool:
    """Whether all nodes of a node's type have its name: not if they are functions of a user's."""
    kind = type(node)
    if issubclass(kind, torch.autograd.function.BackwardCFunction):
        return False
    return kind.__name__ == name.removeprefix("torch::autograd::")


def _named(node: Node) -> str:
    name = node.name()
    if named_by_type(node, name):
        _NAMES[type(node)] = name
    return name


def shape_of(node: Node | None, place: int) -> tuple[int, ...]:
    """The shape of an output."""
    variable = getattr(node, "variable", None)
    if variable is not None:
        return tuple(variable.shape)
    return tuple(node._input_metadata[place].shape)  # type: ignore[union-attr]


def signed(number: int) -> int:
    """Negative numbers are shown as unsigned ones."""
    return number - 2**64 if number >= 2**63 else number


def dim_of(node: Any, dims: int, name: str = "_saved_dim") -> int:
    """The dimension that a node works along, which is not negative."""
    return signed(getattr(node, name)) % dims


def readable(index: Tensor) -> bool:
    """Whether the numbers can be looked at without waiting for a device, and are not too many."""
    return index.device.type == "cpu" and index.numel() <= 2**16 and index.dtype != torch.uint8

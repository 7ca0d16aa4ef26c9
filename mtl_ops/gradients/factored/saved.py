"""What PyTorch keeps with the nodes of a graph. Its attributes are private: nothing else here reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.graph import Node

__all__ = ["Unreadable", "is_unpacked", "number", "output_shape", "saved"]

#: How derivatives.yaml shows "no such index": a negative number as an unsigned one.
_UNSIGNED = 2**63


class Unreadable(Exception):
    """A node that does not hold what was expected of this version of PyTorch."""


def saved(node: Node, name: str) -> Any:
    """What the forward saved under a name.

    Raises:
        Unreadable: If there is no such name.
        RuntimeError: If the graph was freed, or a tensor changed in place since.
    """
    try:
        return getattr(node, f"_saved_{name}")
    except AttributeError:
        raise Unreadable(f"{node.name()} has no {name}") from None


def number(node: Node, name: str) -> int:
    """A saved index, which may be negative."""
    value: int = saved(node, name)
    return value if value < _UNSIGNED else value - 2 * _UNSIGNED


def is_unpacked(node: Node, *names: str) -> bool:
    """Whether reading one of these runs a hook: that of a checkpoint computes all of it anew."""
    for name in names:
        raw = getattr(node, f"_raw_saved_{name}", None)
        if raw is None or getattr(raw, "unpack_hook", None) is not None:
            return True
    return False


def output_shape(node: Node) -> torch.Size:
    """The shape of a node's first output.

    Raises:
        Unreadable: If it is not known.
    """
    try:
        return torch.Size(node._input_metadata[0].shape)
    except (AttributeError, IndexError, RuntimeError, TypeError):  # a nested tensor has none
        raise Unreadable(f"{node.name()} does not tell its shape") from None

"""Gradients whose memory belongs to another stream than the one that they are read on.

A backward runs on the stream of its forward, and what it computes lies in memory of that stream. The
caller's stream waits for it, but freed memory goes back at once: work that the other stream has queued
by then, or gets next, may overwrite a gradient that the caller's stream is still to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Lent", "lent"]

_NONE = nullcontext(None)


class Lent:
    """The streams of a backward, of which another one is the caller's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.callers = _current(device)
        self.others: set[Any] = set()

    def see(self, _: Any = None) -> None:
        """The hook of a node: notes the stream it runs on."""
        here = _current(self.device)
        if here != self.callers:
            self.others.add(here)

    def keep(self, rows: Iterable[Tensor | None]) -> None:
        """Lets nobody have the rows' memory before the caller's stream has read them."""
        if self.others:
            for row in rows:
                if row is not None:
                    _record(row, self.callers)


def lent(
    starts: Sequence[Tensor | GradientEdge], device: torch.device
) -> AbstractContextManager[Lent | None]:
    """Around a backward: sees which streams it begins on. ``None`` where there are no streams.

    Args:
        starts: What is differentiated.
        device: Of the gradients.
    """
    return _seen(starts, device) if _has_streams(device) else _NONE


@contextmanager
def _seen(starts: Sequence[Tensor | GradientEdge], device: torch.device) -> Iterator[Lent]:
    seen = Lent(device)
    nodes = [start.grad_fn if isinstance(start, Tensor) else start.node for start in starts]
    hooks = [_listen(node, seen) for node in nodes if node is not None]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _listen(node: Node, seen: Lent) -> Any:
    return node.register_prehook(seen.see)


def _has_streams(device: torch.device) -> bool:
    return device.type == "cuda"


def _current(device: torch.device) -> Any:
    return torch.cuda.current_stream(device)


def _record(row: Tensor, stream: Any) -> None:
    parts = [row] if row.layout == torch.strided else [row._indices(), row._values()]
    for part in parts:
        part.record_stream(stream)

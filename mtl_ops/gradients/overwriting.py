"""Which part of a tensor an assignment to a view has overwritten.

The node of such an assignment tells nothing by attributes. It is run on tensors without elements instead, with every
operation that it calls intercepted: no memory is read and no device is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from .parts import Part, of_indices

__all__ = ["Written", "written_part"]

_BASE = torch.ops.aten.new_empty_strided.default
_VIEW = torch.ops.aten.as_strided.default
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten.clone.default)
#: The gradient of what was there before, or if that needs none the one of what was written.
_OVERWRITES = (torch.ops.aten.zeros_like.default, torch.ops.aten._to_copy.default)


@dataclass(frozen=True)
class Written:
    """A view that was overwritten.

    Attributes:
        part: What it is of the whole tensor.
        sizes: Its shape.
        places: For each of its dimensions the dimension of the tensor and the indices there, ``None`` for one of a
            single index.
    """

    part: Part
    sizes: tuple[int, ...]
    places: tuple[tuple[int, range] | None, ...]

    def in_view(self, dims: Sequence[int | None]) -> list[int | None]:
        """A part of the tensor that lies in the view, by the view's own indices."""
        found: list[int | None] = []
        for place in self.places:
            bits = None if place is None else dims[place[0]]
            if place is None or bits is None:
                found.append(None)
            else:
                found.append(of_indices(k for k, i in enumerate(place[1]) if bits >> i & 1))
        return found


def written_part(node: Node) -> Written | None:
    """What an assignment has overwritten; ``None`` if that cannot be told, or something else was done to it."""
    recorder, nothing = _Recorder(), torch.empty(0, device="meta")
    with torch.no_grad(), recorder, contextlib.suppress(_Enough):
        node(nothing)  # type: ignore[operator]
    if recorder.base is None or recorder.view is None or not recorder.overwrites:
        return None
    shape, strides = recorder.base
    sizes, steps, offset = recorder.view
    return _find(shape, strides, sizes, steps, offset)


class _Enough(Exception):
    """All is known."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what the node calls until it is known what that was for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.base: tuple[Sequence[int], Sequence[int]] | None = None
        self.view: tuple[Sequence[int], Sequence[int], int] | None = None
        self.overwrites = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is _BASE:
            self.base = args[1], args[2]
            return torch.empty(0, device="meta")
        if func is _VIEW:
            self.view = args[1], args[2], args[3] if len(args) > 3 and args[3] else 0
            return torch.empty(0, device="meta")
        if func in _COPIES:
            return args[0]  # type: ignore[no-any-return]
        self.overwrites = func in _OVERWRITES
        raise _Enough


def _find(
    shape: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[int],
    steps: Sequence[int],
    offset: int,
) -> Written | None:
    """The part of a dense tensor that a view of it is."""
    order = sorted((d for d in range(len(shape)) if shape[d] != 1), key=lambda d: -strides[d])
    starts = [0] * len(shape)
    for d in order:
        starts[d], offset = divmod(offset, strides[d])
        if starts[d] >= shape[d]:
            return None
    found: dict[int, range] = {}
    places: list[tuple[int, range] | None] = []
    for size, step in zip(sizes, steps, strict=True):
        if size == 1:
            places.append(None)
            continue
        fitting = [d for d in order if step and step % strides[d] == 0]
        if not fitting or (d := fitting[0]) in found:
            return None
        found[d] = range(starts[d], starts[d] + size * (step // strides[d]), step // strides[d])
        if found[d][-1] >= shape[d]:
            return None
        places.append((d, found[d]))
    part = tuple(
        of_indices(found[d]) if d in found else 1 << starts[d] if shape[d] != 1 else None
        for d in range(len(shape))
    )
    return Written(part, tuple(sizes), tuple(places))

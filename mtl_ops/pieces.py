"""One backward whose gradients are handed over piece by piece while it runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .gradients import Tasks, dense, raw_gradient
from .graph import leaves

__all__ = ["PIECE", "Take", "in_pieces", "split"]

#: Elements of a piece, at least: fewer are not worth a call of the kernels.
PIECE = 2**20

#: Takes the places of some parameters and their gradients, ``None`` where there is none.
Take = Callable[[Sequence[int], list[Tensor | None]], None]


def in_pieces(
    tasks: Tasks,
    task: int,
    params: Sequence[Tensor],
    sets: Sequence[int],
    take: Take,
    retain_graph: bool = False,
) -> None:
    """Differentiates one loss; its gradients are handed over as soon as they are there.

    No gradient is held longer than until it was handed over: the backward gets zeros without memory
    instead.

    Args:
        tasks: The losses.
        task: Which of them.
        params: P leaves.
        sets: P numbers; parameters of the same number are handed over together.
        take: Is called with every place once, on the stream of the caller: with those of sets that the
            loss does not reach before the backward begins.
        retain_graph: Keeps the graph for another backward.

    Raises:
        RuntimeError: If the graph of the loss was freed by an earlier backward.
    """
    reached = leaves([tasks.losses[task]])
    expected = [p for p, param in enumerate(params) if id(param) in reached]
    pieces = _Pieces(params, sets, expected, take)
    pieces.hand_over_complete()
    hooks: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for p in expected:
            hook = functools.partial(pieces.arrive, p)
            hooks.append(params[p].register_hook(hook))  # type: ignore[no-untyped-call]
        raw_gradient(tasks, task, params, retain_graph)
    finally:
        for handle in hooks:
            handle.remove()
    pieces.finish()


def split(places: Sequence[int], params: Sequence[Tensor]) -> Iterator[list[int]]:
    """The places in order, in parts of a piece each."""
    part: list[int] = []
    elements = 0
    for p in places:
        part.append(p)
        elements += params[p].numel()
        if elements >= PIECE:
            yield part
            part, elements = [], 0
    if part:
        yield part


class _Pieces:
    """Gradients that have arrived and wait for the rest of their set, or of their piece."""

    def __init__(
        self, params: Sequence[Tensor], sets: Sequence[int], expected: Sequence[int], take: Take
    ) -> None:
        self._params, self._sets, self._take = params, sets, take
        self._members: dict[int, list[int]] = {}
        for p, name in enumerate(sets):
            self._members.setdefault(name, []).append(p)
        self._missing = dict.fromkeys(self._members, 0)
        for p in expected:
            self._missing[sets[p]] += 1
        self._arrived: dict[int, Tensor] = {}
        self._complete: list[int] = []
        self._elements = 0
        self._nothing: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        device = next((param.device for param in params if param.is_cuda), None)
        self._stream = None if device is None else torch.cuda.current_stream(device)

    def arrive(self, place: int, gradient: Tensor | None) -> Tensor | None:
        """The hook of a parameter: keeps the gradient, if there is one, and returns zeros instead."""
        nothing = None
        if gradient is not None:
            nothing = self._zeros(gradient)
            gradient = self._arrived[place] = dense(gradient)
        with self._on_callers_stream(gradient):
            name = self._sets[place]
            self._missing[name] -= 1
            if self._missing[name] == 0:
                self._add(name)
        return nothing

    def hand_over_complete(self) -> None:
        """What need not be waited for."""
        for name in [name for name, missing in self._missing.items() if missing == 0]:
            self._add(name)
        self._hand_over()

    def finish(self) -> None:
        """What had no gradient in the end, though the graph leads there, and all that waited for it."""
        for name in [name for name, missing in self._missing.items() if missing > 0]:
            self._add(name)
        self._hand_over()

    def _add(self, name: int) -> None:
        self._missing[name] = -1
        self._complete += self._members[name]
        self._elements += sum(self._params[p].numel() for p in self._members[name])
        if self._elements >= PIECE:
            self._hand_over()

    def _hand_over(self) -> None:
        places = sorted(self._complete)
        self._complete, self._elements = [], 0
        if places:
            self._take(places, [self._arrived.pop(p, None) for p in places])

    def _zeros(self, like: Tensor) -> Tensor:
        """Zeros of a gradient's shape and layout that are at most one number in memory."""
        if like.layout != torch.strided:
            return torch.zeros_like(like)
        kind = like.dtype, like.device
        if kind not in self._nothing:
            self._nothing[kind] = torch.zeros((), dtype=like.dtype, device=like.device)
        return self._nothing[kind].expand(like.shape)

    @contextlib.contextmanager
    def _on_callers_stream(self, gradient: Tensor | None) -> Iterator[None]:
        """A hook runs on the stream of the forward: all other gradients belong to the caller's."""
        if self._stream is None or gradient is None:
            yield
            return
        here = torch.cuda.current_stream(gradient.device)
        if here == self._stream:
            yield
            return
        self._stream.wait_stream(here)
        gradient.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

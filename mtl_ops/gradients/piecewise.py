"""One backward whose gradients are handed over piece by piece while it runs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .differentiate import raw_gradient
from .reach import leaves_of_each, root_node
from .rows import dense
from .source import PLAIN, Source
from .tasks import Tasks

__all__ = ["PIECE", "Take", "in_pieces", "split"]

#: Elements of a piece, at least: fewer are not worth a call of the kernels.
PIECE = 2**20

#: Takes the places of some parameters and their gradients, ``None`` where there is none. It may empty the list.
Take = Callable[[Sequence[int], list[Tensor | None]], None]


def in_pieces(
    tasks: Tasks,
    task: int,
    params: Sequence[Tensor],
    sets: Sequence[int],
    take: Take,
    retain_graph: bool = False,
    source: Source = PLAIN,
) -> None:
    """Differentiates one loss; its gradients are handed over as soon as they are there.

    No gradient is held longer than until it was handed over: the backward gets zeros without memory
    instead.

    Args:
        tasks: The losses.
        task: Which of them.
        params: P leaves.
        sets: P numbers; parameters of the same number are handed over together.
        take: Is called with every place once, in the caller's stream and grad mode. Sets without a
            parameter that the loss reaches come before the backward begins.
        retain_graph: Keeps the graph for another backward.
        source: How to differentiate.

    Raises:
        RuntimeError: If the graph of the loss was freed by an earlier backward.
    """
    loss = tasks.losses[task]
    (reached,) = leaves_of_each([loss])
    expected = [p for p, param in enumerate(params) if id(param) in reached]
    pieces = _Pieces(params, sets, expected, take)
    pieces.take_unreached()
    node = root_node(loss)
    hooks: list[Any] = [] if node is None else [node.register_prehook(pieces.begin)]
    try:
        for p in expected:
            hook = functools.partial(pieces.arrive, p)
            hooks.append(params[p].register_hook(hook))  # type: ignore[no-untyped-call]
        raw_gradient(tasks, task, params, retain_graph, reached, source)
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
        self._members: dict[int, list[int]] = {}  # of sets that are not complete yet
        for p, name in enumerate(sets):
            self._members.setdefault(name, []).append(p)
        self._missing = dict.fromkeys(self._members, 0)
        for p in expected:
            self._missing[sets[p]] += 1
        self._arrived: dict[int, Tensor] = {}
        self._complete: list[int] = []
        self._elements = 0
        self._nothing: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._backward: int | None = None
        self._grad_mode = torch.is_grad_enabled()
        device = next((param.device for param in params if param.is_cuda), None)
        self._stream = None if device is None else torch.cuda.current_stream(device)
        self._others: set[torch.cuda.Stream] = set()

    def begin(self, _: Any = None) -> None:
        """The hook of the loss: this is the backward to listen to.

        Others may run meanwhile, within it (of a function that differentiates by itself) or in another
        thread, and reach the same parameters.
        """
        self._backward = torch._C._current_graph_task_id()

    def arrive(self, place: int, gradient: Tensor | None) -> Tensor | None:
        """The hook of a parameter: keeps the gradient, if there is one, and returns zeros instead."""
        if self._backward is None:  # the loss is the parameter
            self.begin()
        if torch._C._current_graph_task_id() != self._backward:
            return gradient
        with self._as_caller():
            if gradient is not None:
                self._arrived[place] = dense(gradient)
            name = self._sets[place]
            self._missing[name] -= 1
            if self._missing[name] == 0:
                self._add(name)
        return None if gradient is None else self._zeros(gradient)

    def take_unreached(self) -> None:
        """Hands over the sets that nothing will arrive of."""
        for name in [name for name in self._members if self._missing[name] == 0]:
            self._add(name)
        self._hand_over()

    def finish(self) -> None:
        """Hands over what is left, with no gradient where none has arrived."""
        for name in list(self._members):
            self._add(name)
        self._hand_over()
        for here in self._others:
            here.wait_stream(torch.cuda.current_stream(here.device))

    def _add(self, name: int) -> None:
        members = self._members.pop(name)
        self._complete += members
        self._elements += sum(self._params[p].numel() for p in members)
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
    def _as_caller(self) -> Iterator[None]:
        """A hook runs without grad mode, and on the stream of the forward: the rest is on the caller's stream.

        Each waits for the other, as the memory of a gradient goes back to the stream that it came from.
        """
        with torch.set_grad_enabled(self._grad_mode):
            callers = self._stream
            here = None if callers is None else torch.cuda.current_stream(callers.device)
            if callers is None or here is None or here == callers:
                yield
                return
            self._others.add(here)
            callers.wait_stream(here)
            with torch.cuda.stream(callers):
                yield
            here.wait_stream(callers)

"""Which parameters the tasks share, and which are measured and merged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["NOTHING_REACHED", "Layout", "find_layout"]

#: What to say where a layout keeps no parameter.
NOTHING_REACHED = (
    "Parameter `losses` should depend on the parameters that are optimized. Found none that does."
)


@dataclass(frozen=True)
class Layout:
    """The segments of the parameters that any task reaches.

    Segments ``0 .. shared-1`` are solved by the method. If there are parameters that only one task
    reaches, segment ``shared`` holds them all: there each task has its own gradient.

    Attributes:
        kept: Places of the parameters that any task reaches, in order; ``None`` for all of them.
        segments: The segment of each kept parameter; empty if there is only segment 0.
        shared: The number of segments that the method solves.
        total: The number of segments.
        part: ``total × T``, row-major: whether a task reaches a segment.
        sets: The set that each segment is; -1 for the last, if it is not shared.
    """

    kept: tuple[int, ...] | None
    segments: tuple[int, ...]
    shared: int
    total: int
    part: tuple[bool, ...]
    sets: tuple[int, ...]

    def homes(self, count: int) -> tuple[int, ...]:
        """The segment of each kept parameter, of which there are ``count``."""
        return self.segments or (0,) * count

    def first_numbers(self, params: Sequence[Tensor]) -> list[int]:
        """The number of each kept parameter's first element among those of the shared ones, in order."""
        numbers, count = [], 0
        for param, segment in zip(params, self.homes(len(params)), strict=True):
            numbers.append(count)
            count += param.numel() if segment < self.shared else 0
        return numbers

    def factors(self, task_weights: Sequence[float]) -> list[float]:
        """``total × T``, row-major: the weight of a task in a segment; 0 where it does not reach it."""
        weights = list(task_weights) * self.total
        return [weight if part else 0.0 for part, weight in zip(self.part, weights, strict=True)]


def find_layout(
    rows: Sequence[object | None],
    tasks: int,
    sets: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
) -> Layout:
    """Reads the layout off the gradients: a parameter that two or more tasks reach is shared.

    Args:
        rows: ``T × P`` gradients, or anything else that is ``None`` where a task has none.
        tasks: T.
        sets: For each parameter the set in which it is merged if it is shared (its group, or
            itself); ``None`` for one set.
        shared: For each parameter whether it is shared, instead of what the gradients say.
    """
    count = len(rows) // tasks
    everywhere = tasks > 1 and all(
        row is not None for row in rows
    )  # not `None in rows`: that compares tensors
    if shared is None and sets is None and everywhere:
        return Layout(None, (), 1, 1, (True,) * tasks, (0,))
    kept: list[int] = []
    home: list[int] = []
    reach: dict[int, list[bool]] = {}
    for p in range(count):
        reached = [row is not None for row in rows[p::count]]
        times = sum(reached)
        if times == 0:
            continue
        own = times < 2 if shared is None else not shared[p]
        name = -1 if own else sets[p] if sets is not None else 0
        kept.append(p)
        home.append(name)
        before = reach.get(name)
        reach[name] = reached if before is None else [a or b for a, b in zip(before, reached)]  # noqa: B905
    names = sorted(name for name in reach if name >= 0) + [name for name in reach if name < 0]
    place = {name: segment for segment, name in enumerate(names)}
    return Layout(
        kept=None if len(kept) == count else tuple(kept),
        segments=() if len(names) == 1 else tuple(place[name] for name in home),
        shared=len(names) - (-1 in reach),
        total=len(names),
        part=tuple(flag for name in names for flag in reach[name]),
        sets=tuple(names),
    )

"""Methods with a memory of J's size."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._memory import forget, mark, recall, refuse_first, restore, saved, touch, untouched, writable

__all__ = ["MovingAverage", "Remembering", "TrackingMethod"]


class Remembering(NativeMethod):
    """A method that remembers some T×N numbers.

    The memory is as large as T gradients. It is kept in float32, or float64 for float64 gradients, on the
    gradients' device, by the place of a parameter among those that require a gradient: call :meth:`reset` when
    that changes.

    Attributes:
        memory: For each place of a parameter, T tensors of its shape; ``None`` where a task has
            never reached it.
    """

    tracks = True
    state_names: ClassVar[tuple[str, ...]] = ("memory",)
    #: Which of them are such memories.
    memory_names: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self) -> None:
        self.memory: dict[int, list[Tensor | None]] = {}

    def recall(
        self,
        rows: Sequence[Tensor | None],
        places: Sequence[int],
        name: str = "memory",
        exactly: bool = False,
    ) -> list[Tensor | None]:
        """``T × K``, the memory of each row; zeros at first, and ``None`` where there is no row.

        Args:
            rows: ``T × K`` tensors.
            places: The place of each of the K parameters.
            name: Of the memory.
            exactly: Keeps it in the dtypes of the rows.

        Raises:
            ValueError: If a parameter has changed its shape.
        """
        count = len(places)
        if untouched(self, name) and not _fits(getattr(self, name), rows, places):
            setattr(self, name, {})
        touch(self, name)
        memory: dict[int, list[Tensor | None]] = getattr(self, name)
        found: list[Tensor | None] = []
        for k, row in enumerate(rows):
            if row is None:
                found.append(None)
                continue
            task, place = divmod(k, count)
            column = memory.setdefault(places[place], [None] * (len(rows) // count))
            known = column[task]
            wide = torch.float64 if row.dtype == torch.float64 else torch.float32
            dtype = row.dtype if exactly else wide
            if known is None:
                refuse_first(self)
                known = torch.zeros_like(row, dtype=dtype)
            if known.shape != row.shape:
                raise ValueError(
                    f"Method {self.name!r} should see the same parameters in every step (`reset()` "
                    f"forgets them). Found shape {tuple(row.shape)} after {tuple(known.shape)}."
                )
            column[task] = known = writable(known).to(row.device, dtype)
            found.append(known)
        return found

    def state_dict(self) -> dict[str, Any]:
        """The method's memory."""
        return {
            name: self._saved(name) if name in self.memory_names else saved(self, name)
            for name in self.state_names
        }

    def _saved(self, name: str) -> dict[int, list[Tensor | None]]:
        memory: dict[int, list[Tensor | None]] = getattr(self, name)
        return {} if untouched(self, name) else memory

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, in place where shapes are the same."""
        self._check_state(state)
        for name in self.state_names:
            if name not in self.memory_names:
                restore(self, name, state[name])
            elif state[name]:
                self._restore(name, state[name])
            else:
                self._forget(name)

    def _restore(self, name: str, state: Mapping[int, Sequence[Tensor | None]]) -> None:
        old: dict[int, list[Tensor | None]] = getattr(self, name)
        new = {
            place: [
                _restored(known, value)
                for known, value in itertools.zip_longest(old.get(place, ()), column)
            ][: len(column)]
            for place, column in state.items()
        }
        setattr(self, name, new)
        touch(self, name)

    def reset(self) -> None:
        """Forgets everything, as if newly made; the memory is not freed, as it will be needed again."""
        for name in self.state_names:
            if name in self.memory_names:
                self._forget(name)
            else:
                forget(self, name)

    def _forget(self, name: str) -> None:
        for column in getattr(self, name).values():
            for task, known in enumerate(column):
                if known is not None:
                    column[task] = writable(known).zero_()
        mark(self, name)


class TrackingMethod(Remembering):
    """A method that is shown the gradients of the shared parameters, and remembers some T×N numbers."""

    @abstractmethod
    def track(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        losses: Tensor | None,
        places: Sequence[int],
        segments: Sequence[int],
    ) -> list[Tensor | None] | None:
        """Takes note of the gradients.

        Args:
            rows: ``T × K`` gradients of the K shared parameters.
            factors: ``(T,)`` float64, what to multiply each task's gradient with; 0 for a task whose
                gradient is not to be read, and must leave the memory as it is.
            losses: ``(T,)`` float64, or ``None``.
            places: The place of each of the K parameters.
            segments: The segment of each.

        Returns:
            ``T × K`` gradients to measure and merge instead, of the same dtypes, or ``None`` for
            those that came in.
        """


class MovingAverage(TrackingMethod):
    """A method that merges moving averages of the gradients, ``Y_t <- (1 - β) Y_t + β f_t g_t``.

    Attributes:
        calls: The number k of steps so far, a 0-d float64 tensor; ``None`` before the first.
    """

    state_names: ClassVar[tuple[str, ...]] = ("memory", "calls")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor | None = None

    def count(self, factors: Tensor) -> Tensor:
        """The number of this step; a step in which nothing may be read is none."""
        calls = recall(self, "calls", (), factors.device, 0.0)
        return calls.add_((factors != 0).any()).clamp(min=1.0)

    def average(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        rate: Tensor,
        places: Sequence[int],
    ) -> list[Tensor | None]:
        """One step of all averages, in one pass over rows and memory.

        Args:
            rows: ``T × K`` gradients.
            factors: ``(T,)`` f, 0 for a task whose average stays.
            rate: β, 0-d float64.
            places: The place of each of the K parameters.

        Returns:
            ``T × K`` averages in the dtypes of the rows: the memory itself if that is the same.
        """
        found = self.recall(rows, places)
        pairs = [
            (known, row if row.dtype == known.dtype else row.to(known.dtype), k // len(places))
            for k, (known, row) in enumerate(zip(found, rows, strict=True))
            if known is not None and row is not None
        ]
        averages = [known for known, _, _ in pairs]
        kept = torch.where(factors != 0, 1.0 - rate, torch.ones_like(factors))
        ops.merge_(
            averages,
            [*averages, *(row for _, row, _ in pairs)],
            torch.stack([kept, rate * factors], dim=1),
            segments=[task for _, _, task in pairs],
        )
        return [
            known if known is None or row is None else known.to(row.dtype)
            for known, row in zip(found, rows, strict=True)
        ]


def _fits(
    memory: Mapping[int, Sequence[Tensor | None]],
    rows: Sequence[Tensor | None],
    places: Sequence[int],
) -> bool:
    """Whether the memory has the shapes of these rows, wherever it has any."""
    count = len(places)
    for k, row in enumerate(rows):
        task, place = divmod(k, count)
        column = memory.get(places[place])
        if column is None:
            continue
        if len(column) != len(rows) // count:
            return False
        known = column[task]
        if row is not None and known is not None and row.shape != known.shape:
            return False
    return True


def _restored(known: Tensor | None, value: Tensor | None) -> Tensor | None:
    """The memory with a value of a checkpoint in it; another one where there is none of its shape."""
    if value is None:
        return None if known is None else writable(known).zero_()
    if known is None or known.shape != value.shape or known.dtype != value.dtype:
        return value.clone()
    return writable(known).copy_(value)

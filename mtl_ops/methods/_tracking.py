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

__all__ = ["MovingAverage", "TrackingMethod"]


class TrackingMethod(NativeMethod):
    """A method that is shown the gradients of the shared parameters, and remembers some T×N numbers.

    The memory is as large as T gradients of the shared parameters. It is kept in float32, or
    float64 for float64 gradients, on the gradients' device, by the place of a parameter among those
    that require a gradient: call :meth:`reset` when that changes.

    Attributes:
        memory: For each place of a parameter, T tensors of its shape; ``None`` where a task has
            never reached it.
    """

    tracks = True
    state_names: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(self) -> None:
        self.memory: dict[int, list[Tensor | None]] = {}

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

    def recall(self, rows: Sequence[Tensor | None], places: Sequence[int]) -> list[Tensor | None]:
        """``T × K``, the memory of each row; zeros at first, and ``None`` where there is no row.

        Raises:
            ValueError: If a parameter has changed its shape.
        """
        count = len(places)
        if untouched(self, "memory") and not self._fits(rows, places):
            self.memory = {}
        touch(self, "memory")
        found: list[Tensor | None] = []
        for k, row in enumerate(rows):
            if row is None:
                found.append(None)
                continue
            task, place = divmod(k, count)
            column = self.memory.setdefault(places[place], [None] * (len(rows) // count))
            known = column[task]
            dtype = torch.float64 if row.dtype == torch.float64 else torch.float32
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

    def _fits(self, rows: Sequence[Tensor | None], places: Sequence[int]) -> bool:
        """Whether the memory has the shapes of these rows, wherever it has any."""
        count = len(places)
        for k, row in enumerate(rows):
            task, place = divmod(k, count)
            column = self.memory.get(places[place])
            if column is None:
                continue
            if len(column) != len(rows) // count:
                return False
            known = column[task]
            if row is not None and known is not None and row.shape != known.shape:
                return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """The method's memory."""
        memory = {} if untouched(self, "memory") else self.memory
        return {**{name: saved(self, name) for name in self.state_names}, "memory": memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, in place where shapes are the same."""
        self._check_state(state)
        for name in self.state_names:
            if name != "memory":
                restore(self, name, state[name])
        if not state["memory"]:
            self._forget_gradients()
            return
        old = self.memory
        self.memory = {
            place: [
                _restored(known, value)
                for known, value in itertools.zip_longest(old.get(place, ()), column)
            ][: len(column)]
            for place, column in state["memory"].items()
        }
        touch(self, "memory")

    def reset(self) -> None:
        """Forgets everything, as if newly made; the memory is not freed, as it will be needed again."""
        for name in self.state_names:
            if name != "memory":
                forget(self, name)
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for column in self.memory.values():
            for task, known in enumerate(column):
                if known is not None:
                    column[task] = writable(known).zero_()
        mark(self, "memory")


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


def _restored(known: Tensor | None, value: Tensor | None) -> Tensor | None:
    """The memory with a value of a checkpoint in it; another one where there is none of its shape."""
    if value is None:
        return None if known is None else writable(known).zero_()
    if known is None or known.shape != value.shape or known.dtype != value.dtype:
        return value.clone()
    return writable(known).copy_(value)

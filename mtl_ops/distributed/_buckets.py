"""Parameters behind one another in buffers that are cut into a part for each process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Bucket", "Piece", "make_buckets"]


@dataclass(frozen=True)
class Piece:
    """Neighbouring elements that are merged alike: of one segment, and reached by the same tasks.

    Attributes:
        start: The first, in places relative to the process's part.
        stop: Behind the last.
        segment: Of all of them.
        tasks: That reach them.
        param: That the first of them is of.
        skipped: How many elements of that parameter come before it.
    """

    start: int
    stop: int
    segment: int
    tasks: tuple[int, ...]
    param: int
    skipped: int


class Bucket:
    """Parameters of one dtype that lie behind one another in a buffer.

    Attributes:
        places: Which of the parameters.
        offsets: Where each starts; one more for the end.
        tasks: The tasks whose gradients have a buffer of their own; ``None`` if every parameter is
            reached by one task only, and one buffer holds them all.
        shard: The number of elements of each process.
        size: That of all of them.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        places: Sequence[int],
        tasks: Sequence[int] | None,
        world: int,
    ) -> None:
        self.places, self.tasks = places, tasks
        self.offsets = [0]
        for p in places:
            self.offsets.append(self.offsets[-1] + params[p].numel())
        self.shard = -(-self.offsets[-1] // world)
        self.size = self.shard * world
        self.like = params[places[0]]

    def empty_shard(self) -> Tensor:
        """Memory for a process's part."""
        return torch.zeros(self.shard, dtype=self.like.dtype, device=self.like.device)

    def flatten(self, rows: Sequence[Tensor | None]) -> Tensor:
        """The gradients behind one another, zeros where there is none."""
        flat = torch.zeros(self.size, dtype=self.like.dtype, device=self.like.device)
        views, sources = [], []
        for p, start, stop in zip(self.places, self.offsets, self.offsets[1:], strict=False):
            row = rows[p]
            if row is not None:
                views.append(flat[start:stop])
                sources.append(row.reshape(-1))
        if views:
            torch._foreach_copy_(views, sources)
        return flat

    def unflatten(
        self, whole: Tensor, params: Sequence[Tensor], merged: list[Tensor | None]
    ) -> None:
        """Puts a view of each parameter's part of the buffer into ``merged``."""
        for p, start, stop in zip(self.places, self.offsets, self.offsets[1:], strict=False):
            merged[p] = whole[start:stop].view_as(params[p])

    def pieces(
        self,
        rank: int,
        segments: Sequence[int],
        reach: Sequence[tuple[int, ...]],
        joined: bool = True,
    ) -> list[Piece]:
        """What a process merges of this bucket, in places relative to its part.

        Args:
            rank: Of the process.
            segments: Of each parameter.
            reach: The tasks that reach each parameter.
            joined: A piece may hold several parameters.
        """
        low, high = rank * self.shard, (rank + 1) * self.shard
        found: list[Piece] = []
        for p, start, stop in zip(self.places, self.offsets, self.offsets[1:], strict=False):
            first, last = max(start, low) - low, min(stop, high) - low
            if first >= last:
                continue
            before = found[-1] if found else None
            alike = before is not None and (before.segment, before.tasks) == (segments[p], reach[p])
            if joined and before is not None and alike and before.stop == first:
                found[-1] = replace(before, stop=last)
            else:
                found.append(Piece(first, last, segments[p], reach[p], p, low + first - start))
        return found


def make_buckets(
    params: Sequence[Tensor], reach: Sequence[tuple[int, ...]], world: int
) -> list[Bucket]:
    """One for each dtype: of the parameters that several tasks reach, and of those that one does."""
    sorted_: dict[tuple[torch.dtype, bool], list[int]] = {}
    for p, param in enumerate(params):
        sorted_.setdefault((param.dtype, len(reach[p]) > 1), []).append(p)
    return [
        Bucket(
            params, places, sorted({t for p in places for t in reach[p]}) if common else None, world
        )
        for (_, common), places in sorted_.items()
    ]

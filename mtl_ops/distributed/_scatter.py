"""Sums of the tasks' gradients, a part for each process, while later backwards run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._buckets import Bucket, make_buckets
from ._collectives import Collectives

__all__ = ["Scatter", "reach_of"]

#: Of how many tasks the reductions may be on their way: their buffers take memory.
IN_FLIGHT = 2


def reach_of(flags: Sequence[bool], tasks: int) -> tuple[list[int], list[tuple[int, ...]]]:
    """Places of the parameters that any task reaches, and the tasks that reach each of those.

    Args:
        flags: ``T × P``, row-major.
        tasks: T.
    """
    count = len(flags) // tasks
    found = [tuple(t for t in range(tasks) if flags[t * count + p]) for p in range(count)]
    kept = [p for p in range(count) if found[p]]
    return kept, [found[p] for p in kept]


class Scatter:
    """Reduce-scatters of one step: of each task that parameters share, and one of all other parameters.

    Args:
        wire: The processes.
        params: P parameters.
        flags: ``T × P``, whether a task reaches a parameter in any process.
        tasks: T.
    """

    def __init__(
        self, wire: Collectives, params: Sequence[Tensor], flags: Sequence[bool], tasks: int
    ) -> None:
        self.wire, self.flags = wire, tuple(flags)
        self.kept, self.reach = reach_of(flags, tasks)
        self.params = [params[p] for p in self.kept]
        self.buckets = make_buckets(self.params, self.reach, wire.world) if self.kept else []
        self._nothing = torch.empty(0)
        self._shards = [[self._nothing] * tasks for _ in self.buckets]
        self._own: list[Tensor | None] = [None] * len(self.kept)
        self._waiting: list[list[Callable[[], None]]] = []

    def launch(self, task: int, row: Sequence[Tensor | None]) -> None:
        """Starts what can be reduced now that the P gradients of a task are there.

        What the flags do not have is left out: whoever compares them with what was reached finds out.
        """
        mine = [
            row[p] if task in tasks else None
            for p, tasks in zip(self.kept, self.reach, strict=True)
        ]
        started = []
        for bucket, shards in zip(self.buckets, self._shards, strict=True):
            if bucket.tasks is not None and task in bucket.tasks:
                shards[task], wait = self._start(bucket, mine)
                started.append(wait)
            elif bucket.tasks is None:
                owners = [self.reach[p][0] for p in bucket.places]
                for p, owner in zip(bucket.places, owners, strict=True):
                    if owner == task:
                        self._own[p] = mine[p]
                if task == max(owners):
                    shard, wait = self._start(bucket, self._own)
                    shards[:] = [shard] * len(shards)
                    started.append(wait)
        self._waiting.append(started)
        if len(self._waiting) > IN_FLIGHT:
            self._wait(self._waiting.pop(0))

    def shards(self) -> list[list[Tensor]]:
        """This process's part of each bucket, of each task."""
        while self._waiting:
            self._wait(self._waiting.pop(0))
        return self._shards

    def _start(
        self, bucket: Bucket, rows: Sequence[Tensor | None]
    ) -> tuple[Tensor, Callable[[], None]]:
        shard = bucket.empty_shard()
        return shard, self.wire.start_reduce_scatter(shard, bucket.flatten(rows))

    def _wait(self, started: Sequence[Callable[[], None]]) -> None:
        for wait in started:
            wait()

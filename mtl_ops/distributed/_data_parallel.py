"""Data-parallel training: every process holds the parameters, and merges a part of the gradient.

Each process gets the sums of one part of the parameters (a reduce-scatter), adds what it measures there to what others
measured (an all-reduce of T×T numbers), solves the same small problem, merges its part and hands it to the others
(an all-gather). On the wire that is T·N + N numbers a process and step, instead of 2·T·N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..gradients.layout import NOTHING_REACHED, Layout, find_layout
from ..gradients.rows import columns, dtypes_of
from ..gradients.tasks import Tasks
from ..merging.call import Call, Part
from ..merging.merge import merge_rows
from ..merging.report import Report
from ..merging.sink import Early
from ..methods import CoordinateMethod
from ._buckets import make_buckets
from ._processes import Processes
from ._scatter import Scatter, reach_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["DataParallel"]


class DataParallel(Processes):
    """Merges over the processes of a group that hold the same parameters and different batches.

    Args:
        mode: ``"exact"``: the merged gradient of the joint batch. ``"mean_gram"``: weights from the
            mean of the processes' Gram matrices, an approximation; the gradients are merged in each
            process and summed once, N numbers instead of T·N.
        group: The process group; ``None`` for the default one.
    """

    def __init__(self, mode: Literal["exact", "mean_gram"], group: ProcessGroup | None) -> None:
        super().__init__(group)
        self.mode = mode
        self._flags: dict[tuple[int, ...], tuple[bool, ...]] = {}

    def check_parameters(self, params: Sequence[Tensor]) -> None:
        """Checks that all processes hold the same parameters.

        Raises:
            ValueError: On every process, if they do not.
        """
        facts = [[list(p.shape), p.detach().double().sum().item()] for p in params]
        for rank, others in enumerate(self.wire.gather(facts, params[0].device)):
            if len(others) != len(facts):
                raise self.common(
                    f"All processes should optimize the same parameters. Found {len(facts)} on rank {self.rank} "
                    f"and {len(others)} on rank {rank}."
                )
            for place, (one, two) in enumerate(zip(facts, others, strict=True)):
                if one != two and not (one[1] != one[1] and two[1] != two[1]):
                    raise self.common(
                        "All processes should start from the same parameters. "
                        f"Found different ones on ranks {self.rank} and {rank} at place {place}."
                    )

    def _check_table(self, tasks: Tasks, table: list[list[list[float]]]) -> None:
        """Any process may lack any task."""

    def merged(
        self, call: Call, rows: Sequence[Tensor | None], early: Early | None
    ) -> tuple[Report, dict[int, Tensor]]:
        """The merged gradient of each parameter that any task reaches on any process, by its place."""
        params, tasks = call.params.tensors, len(call.task_weights)
        reached = self.anywhere(rows, params)
        layout = find_layout(reached, tasks, call.params.sets, call.params.shared)
        flags = tuple(row is not None for row in reached)
        if not any(flags):
            raise self.common(NOTHING_REACHED)
        if call.method.tracks:
            return self._merge_whole(call, self.summed(rows, params), layout)
        if self.mode == "exact":
            self._flags[_key(call)] = flags
            if isinstance(early, Scatter) and early.flags == flags:
                scatter = early
            else:
                scatter = self._scattered(rows, params, flags, tasks)
            report, merged = self._merge_shards(call, scatter, layout)
            return report, dict(zip(scatter.kept, merged, strict=True))
        kept = reach_of(flags, tasks)[0]
        rows = columns(rows, len(params), kept)
        params = [params[p] for p in kept]
        report, merged = self._merge_locally(call, rows, params, layout)
        return report, dict(zip(kept, merged, strict=True))

    def forget(self) -> None:
        self._flags.clear()

    def expect(self, call: Call, reached: Sequence[Tensor | None] = ()) -> Scatter | None:
        """Sums what it is given of each task over the processes, while the other tasks' backwards run.

        What goes where depends on which task reaches which parameter in any process, which is known
        only at the end. So it is taken to be as last time, and sent again if it was not.
        """
        if call.method.tracks:
            return None
        params, flags = call.params.tensors, self._flags.get(_key(call))
        if reached:
            flags = tuple(row is not None for row in self.anywhere(reached, params))
        return None if flags is None else Scatter(self.wire, params, flags, len(call.task_weights))

    def measure(
        self,
        rows: list[Tensor | None],
        params: Sequence[Tensor],
        gram: Callable[[Sequence[Tensor | None]], Tensor],
    ) -> Tensor:
        """``(S, T, T)``: of the sums of all processes, or the mean of theirs with ``"mean_gram"``."""
        if self.mode == "mean_gram":
            return self.total(gram(rows) * self.world)
        return gram(self.summed(rows, params))

    def summed(
        self, rows: Sequence[Tensor | None], params: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """The gradients of the joint batch, whole in every process: 2·T·N numbers on the wire."""
        count = len(params)
        reached = self.anywhere(rows, params)
        dtypes = dtypes_of(rows, params)
        whole: list[Tensor | None] = [None] * len(rows)
        for place, (row, flag) in enumerate(zip(rows, reached, strict=True)):
            if flag is not None:
                param, dtype = params[place % count], dtypes[place % count]
                mine = torch.zeros_like(param, dtype=dtype) if row is None else row
                whole[place] = self.total(mine.clone(memory_format=torch.contiguous_format))
        return whole

    def _scattered(
        self,
        rows: Sequence[Tensor | None],
        params: Sequence[Tensor],
        flags: Sequence[bool],
        tasks: int,
    ) -> Scatter:
        scatter = Scatter(self.wire, params, flags, tasks)
        for t in range(tasks):
            scatter.launch(t, rows[t * len(params) : (t + 1) * len(params)])
        return scatter

    def anywhere(
        self, rows: Sequence[Tensor | None], params: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """``rows``, with something where the task reaches the parameter in another process only."""
        pattern = torch.tensor([row is not None for row in rows], dtype=torch.uint8)
        pattern = pattern.to(params[0].device)
        self.wire.all_reduce(pattern, largest=True)
        flags = pattern.tolist()
        return [
            (params[place % len(params)] if row is None else row) if flag else None
            for place, (row, flag) in enumerate(zip(rows, flags, strict=True))
        ]

    def _merge_whole(
        self, call: Call, rows: Sequence[Tensor | None], layout: Layout
    ) -> tuple[Report, dict[int, Tensor]]:
        """Merges the sums in every process by itself, for methods that remember gradients.

        So each remembers the same, and its memory is written and read as that of one process.
        """
        params = call.params.tensors
        kept = range(len(params)) if layout.kept is None else layout.kept
        reached = [params[p] for p in kept]
        rows = columns(rows, len(params), list(kept))
        out = [
            torch.empty_like(param, dtype=dtype)
            for param, dtype in zip(reached, dtypes_of(rows, reached), strict=True)
        ]
        report = merge_rows(call, rows, out, layout)
        return report, dict(zip(kept, out, strict=True))

    def _merge_shards(
        self, call: Call, scatter: Scatter, layout: Layout
    ) -> tuple[Report, list[Tensor]]:
        """Measures and merges this process's part of the sums, and gathers the others'."""
        method, tasks = call.method, len(call.task_weights)
        buckets, params = scatter.buckets, scatter.params
        segments = layout.homes(len(params))
        outs = [bucket.empty_shard() for bucket in buckets]
        columns_: list[list[Tensor | None]] = [[] for _ in range(tasks)]
        out: list[Tensor] = []
        homes: list[int] = []
        first: list[int] = []
        numbers = layout.first_numbers(params)
        # a piece with the elements of several parameters would have no single first number
        joined = not (isinstance(method, CoordinateMethod) and method.draws)
        for bucket, shard, target in zip(buckets, scatter.shards(), outs, strict=True):
            for piece in bucket.pieces(self.rank, segments, scatter.reach, joined):
                where = slice(piece.start, piece.stop)
                out.append(target[where])
                homes.append(piece.segment)
                first.append(numbers[piece.param] + piece.skipped)
                for t in range(tasks):
                    columns_[t].append(shard[t][where] if t in piece.tasks else None)
        if all(home >= layout.shared for home in homes):
            # This process has nothing of what is shared, but takes part: methods count their calls.
            out, homes, first = [*out, outs[0][:0]], [*homes, 0], [*first, 0]
            columns_ = [[*column, outs[0][:0]] for column in columns_]
        report = merge_rows(
            call,
            [row for column in columns_ for row in column],
            out,
            replace(layout, kept=None, segments=tuple(homes)),
            part=Part(self.total, first=first),
        )
        merged: list[Tensor | None] = [None] * len(params)
        for bucket, target in zip(buckets, outs, strict=True):
            whole = torch.empty(bucket.size, dtype=target.dtype, device=target.device)
            self.wire.all_gather(whole, target)
            bucket.unflatten(whole, params, merged)
        return report, [gradient for gradient in merged if gradient is not None]

    def _merge_locally(
        self,
        call: Call,
        rows: Sequence[Tensor | None],
        params: Sequence[Tensor],
        layout: Layout,
    ) -> tuple[Report, list[Tensor]]:
        """Merges this process's own gradients with weights from the mean Gram matrix, and sums."""
        out = [
            torch.zeros_like(param, dtype=dtype)
            for param, dtype in zip(params, dtypes_of(rows, params), strict=True)
        ]
        mean = Part(lambda gram: self.total(gram * self.world))
        report = merge_rows(call, rows, out, replace(layout, kept=None), part=mean)
        merged: list[Tensor | None] = [None] * len(params)
        for bucket in make_buckets(params, [(0, 1)] * len(params), self.world):
            bucket.unflatten(self.total(bucket.flatten(out)), params, merged)
        return report, [gradient for gradient in merged if gradient is not None]


def _key(call: Call) -> tuple[int, ...]:
    """What all processes know of a step before it."""
    return (len(call.params.tensors), *(int(weight != 0.0) for weight in call.weights))

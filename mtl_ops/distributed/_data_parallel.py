"""Data-parallel training: every process holds the parameters, and merges a part of the gradient.

Each process gets the sums of one part of the parameters (a reduce-scatter), adds what it measures there to what others
measured (an all-reduce of T×T numbers), solves the same small problem, merges its part and hands it to the others
(an all-gather). On the wire that is T·N + N numbers a process and step, instead of 2·T·N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..gradients import Tasks
from ..layout import Layout, find_layout
from ..merging import columns, merge_rows
from ..methods import Method
from ..report import Report
from ..rules import Rules
from ._buckets import Bucket, make_buckets
from ._processes import Processes

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

    def check_parameters(self, params: Sequence[Tensor]) -> None:
        """Checks that all processes hold the same parameters.

        Raises:
            ValueError: On every process, if they do not.
        """
        facts = [[list(p.shape), p.detach().double().sum().item()] for p in params]
        for rank, others in enumerate(self.wire.gather(facts, params[0].device)):
            if len(others) != len(facts):
                raise ValueError(
                    f"All processes should optimize the same parameters. Found {len(facts)} on rank {self.rank} "
                    f"and {len(others)} on rank {rank}."
                )
            for place, (one, two) in enumerate(zip(facts, others, strict=True)):
                if one != two and not (one[1] != one[1] and two[1] != two[1]):
                    raise ValueError(
                        "All processes should start from the same parameters. "
                        f"Found different ones on ranks {self.rank} and {rank} at place {place}."
                    )

    def _check_table(self, tasks: Tasks, table: list[list[list[float]]]) -> None:
        """Any process may lack any task."""

    def merge(
        self,
        method: Method,
        rows: Sequence[Tensor | None],
        params: Sequence[Tensor],
        weights: Sequence[float],
        rules: Rules,
        *,
        sets: Sequence[int] | None = None,
        shared: Sequence[bool] | None = None,
        **rest: Any,
    ) -> tuple[Report, dict[int, Tensor]]:
        """The merged gradient of each parameter that any task reaches on any process, by its place."""
        tasks = len(weights)
        reached = self.anywhere(rows, params)
        layout = find_layout(reached, tasks, sets, shared)
        kept = list(range(len(params))) if layout.kept is None else list(layout.kept)
        if not kept:
            raise ValueError(
                "Parameter `losses` should depend on the parameters that are optimized. Found none that does."
            )
        params = [params[p] for p in kept]
        rows = columns(rows, len(reached) // tasks, kept)
        pattern = columns(reached, len(reached) // tasks, kept)
        count = len(params)
        reach = [
            tuple(t for t in range(tasks) if pattern[t * count + p] is not None)
            for p in range(count)
        ]
        merge = self._merge_shards if self.mode == "exact" else self._merge_locally
        report, merged = merge(method, rows, params, weights, rules, layout, reach, rest)
        return report, dict(zip(kept, merged, strict=True))

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

    def _merge_shards(
        self,
        method: Method,
        rows: Sequence[Tensor | None],
        params: Sequence[Tensor],
        weights: Sequence[float],
        rules: Rules,
        layout: Layout,
        reach: Sequence[tuple[int, ...]],
        rest: Mapping[str, Any],
    ) -> tuple[Report, list[Tensor]]:
        """Sums, measures and merges this process's part, and gathers the others'."""
        tasks = len(weights)
        segments = layout.segments or (0,) * len(params)
        buckets = make_buckets(params, reach, self.world)
        shards = [self._scatter(bucket, rows, tasks, reach) for bucket in buckets]
        outs = [bucket.empty_shard() for bucket in buckets]
        columns_: list[list[Tensor | None]] = [[] for _ in range(tasks)]
        out: list[Tensor] = []
        homes: list[int] = []
        for bucket, shard, target in zip(buckets, shards, outs, strict=True):
            for piece in bucket.pieces(self.rank, segments, reach):
                where = slice(piece.start, piece.stop)
                out.append(target[where])
                homes.append(piece.segment)
                for t in range(tasks):
                    columns_[t].append(shard[t][where] if t in piece.tasks else None)
        if not out:  # fewer elements than processes: this one measures nothing, but takes part
            out, homes = [outs[0][:0]], [0]
            columns_ = [[outs[0][:0]] for _ in range(tasks)]
        report = merge_rows(
            method,
            [row for column in columns_ for row in column],
            out,
            weights,
            replace(layout, kept=None, segments=tuple(homes)),
            rules,
            total=self.total,
            **rest,
        )
        merged: list[Tensor | None] = [None] * len(params)
        for bucket, target in zip(buckets, outs, strict=True):
            whole = torch.empty(bucket.size, dtype=target.dtype, device=target.device)
            self.wire.all_gather(whole, target)
            bucket.unflatten(whole, params, merged)
        return report, [gradient for gradient in merged if gradient is not None]

    def _scatter(
        self,
        bucket: Bucket,
        rows: Sequence[Tensor | None],
        tasks: int,
        reach: Sequence[tuple[int, ...]],
    ) -> list[Tensor]:
        """This process's part of the summed gradients of each task."""
        count = len(rows) // tasks
        if bucket.tasks is None:
            mine = [rows[reach[p][0] * count + p] for p in range(count)]
            return [self._scatter_one(bucket, mine)] * tasks
        nothing = torch.empty(0)
        return [
            self._scatter_one(bucket, rows[t * count : (t + 1) * count])
            if t in bucket.tasks
            else nothing
            for t in range(tasks)
        ]

    def _scatter_one(self, bucket: Bucket, rows: Sequence[Tensor | None]) -> Tensor:
        shard = bucket.empty_shard()
        self.wire.start_reduce_scatter(shard, bucket.flatten(rows))()
        return shard

    def _merge_locally(
        self,
        method: Method,
        rows: Sequence[Tensor | None],
        params: Sequence[Tensor],
        weights: Sequence[float],
        rules: Rules,
        layout: Layout,
        reach: Sequence[tuple[int, ...]],
        rest: Mapping[str, Any],
    ) -> tuple[Report, list[Tensor]]:
        """Merges this process's own gradients with weights from the mean Gram matrix, and sums."""
        out = [torch.zeros_like(param) for param in params]
        report = merge_rows(
            method,
            rows,
            out,
            weights,
            replace(layout, kept=None),
            rules,
            total=lambda gram: self.total(gram * self.world),
            **rest,
        )
        merged: list[Tensor | None] = [None] * len(params)
        for bucket in make_buckets(params, [(0, 1)] * len(params), self.world):
            bucket.unflatten(self.total(bucket.flatten(out)), params, merged)
        return report, [gradient for gradient in merged if gradient is not None]

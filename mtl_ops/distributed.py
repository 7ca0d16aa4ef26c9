"""Data-parallel training: every process merges a part of the gradient, and all get the whole.

The mean of the processes' Gram matrices is not the Gram matrix of the mean gradient, so the task gradients have to be
summed over the processes *before* they are measured. Each process gets the sums of one part of the parameters (a
reduce-scatter), adds what it measures there to what the others measured (an all-reduce of T×T numbers), solves the same
small problem, merges its part and hands it to the others (an all-gather). On the wire that is T·N + N numbers a process
and step, instead of 2·T·N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from .gradients import Tasks
from .layout import Layout, find_layout
from .merging import columns, merge_rows
from .methods import Method
from .report import Report
from .rules import Rules

__all__ = ["DataParallel", "Distributed", "Samples", "stop_averaging"]

Distributed = Literal["auto", "exact", "mean_gram"]

#: How many samples of this process's batch each task has: one number, by name, or in order.
Samples = float | Mapping[str, float] | Sequence[float]


@dataclass(frozen=True)
class _Piece:
    """Neighbouring elements that are merged alike: of one segment, and reached by the same tasks."""

    start: int
    stop: int
    segment: int
    tasks: tuple[int, ...]


class _Bucket:
    """Parameters of one dtype that lie behind one another in a buffer.

    Attributes:
        places: Which of the parameters.
        offsets: Where each starts; one more for the end.
        tasks: The tasks whose gradients have a buffer of their own; ``None`` if every parameter is
            reached by one task only, and one buffer holds them all.
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

    def pieces(
        self, rank: int, segments: Sequence[int], reach: Sequence[tuple[int, ...]]
    ) -> list[_Piece]:
        """What a process merges of this bucket, in places relative to its part."""
        low, high = rank * self.shard, (rank + 1) * self.shard
        found: list[_Piece] = []
        for p, start, stop in zip(self.places, self.offsets, self.offsets[1:], strict=False):
            first, last = max(start, low) - low, min(stop, high) - low
            if first >= last:
                continue
            before = found[-1] if found else None
            alike = before is not None and (before.segment, before.tasks) == (segments[p], reach[p])
            if before is not None and alike and before.stop == first:
                found[-1] = replace(before, stop=last)
            else:
                found.append(_Piece(first, last, segments[p], reach[p]))
        return found


class DataParallel:
    """Merges over the processes of a group that hold the same parameters and different batches.

    Args:
        mode: ``"exact"``: the merged gradient of the joint batch. ``"mean_gram"``: weights from the
            mean of the processes' Gram matrices, an approximation; the gradients are merged in each
            process and summed once, N numbers instead of T·N.
        group: The process group; ``None`` for the default one.
    """

    def __init__(
        self, mode: Literal["exact", "mean_gram"], group: dist.ProcessGroup | None
    ) -> None:
        self.mode = mode
        self.group = group
        self.world = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    @classmethod
    def make(cls, mode: Distributed | None, group: dist.ProcessGroup | None) -> DataParallel | None:
        """What the optimizer's arguments ask for; ``None`` for a single process.

        Raises:
            ValueError: If the mode is unknown, or no process group is initialised for it.
        """
        if mode is not None and mode not in get_args(Distributed):
            raise ValueError(
                f"Parameter `distributed` should be None or one of {', '.join(get_args(Distributed))}. "
                f"Found `distributed = {mode!r}`."
            )
        running = dist.is_available() and dist.is_initialized()
        if mode in ("exact", "mean_gram") and not running:
            raise ValueError(
                "Parameter `distributed` should be None or 'auto' without an initialised process group. "
                f"Found `distributed = {mode!r}`."
            )
        if mode is None or not running or dist.get_world_size(group) == 1:
            return None
        return cls("exact" if mode == "auto" else mode, group)

    # ---- agreement ------------------------------------------------------------------------------

    def check_parameters(self, params: Sequence[Tensor]) -> None:
        """Checks that all processes hold the same parameters.

        Raises:
            ValueError: On every process, if they do not.
        """
        facts = [(tuple(p.shape), p.detach().double().sum().item()) for p in params]
        for rank, others in enumerate(self._gather(facts)):
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

    def check_tasks(self, names: Sequence[str] | None, count: int) -> None:
        """Checks that all processes have the same tasks.

        Raises:
            ValueError: On every process, if they do not.
        """
        mine = (None if names is None else list(names), count)
        for rank, other in enumerate(self._gather(mine)):
            if other != mine:
                raise ValueError(
                    "Parameter `losses` should hold the same tasks on all processes. "
                    f"Found {mine[0] or mine[1]} on rank {self.rank} and {other[0] or other[1]} on rank {rank}."
                )

    def _gather(self, fact: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, fact, group=self.group)
        return gathered

    def agree(self, tasks: Tasks, samples: Samples, device: torch.device) -> Tasks:
        """The tasks with what this process's gradients count for in those of the joint batch.

        Each task's loss in the joint batch is the mean of the processes' losses, weighed by their
        numbers of samples; a process without the task has none. Waits for the device once: whether
        any process has a task decides what is computed next.
        """
        counts = _counts(samples, tasks)
        local = torch.tensor(counts, dtype=torch.float64)
        losses = tasks.values if tasks.present else torch.zeros(len(counts), device=device)
        local = local.to(device)
        both = torch.stack([local, torch.where(local > 0, local * losses, 0.0)])
        dist.all_reduce(both, group=self.group)
        total = both[0].tolist()
        return replace(
            tasks,
            shares=tuple(c / t if t else 0.0 for c, t in zip(counts, total, strict=True)),
            part=tuple(t > 0 for t in total),
            totals=both[1] / both[0],
            parallel=self,
        )

    # ---- merging --------------------------------------------------------------------------------

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor, group=self.group)
        return tensor

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
            return Report(), {}
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
        dist.all_reduce(pattern, op=dist.ReduceOp.MAX, group=self.group)
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
        buckets = _buckets(params, reach, self.world)
        shards = [self._scatter(bucket, rows, tasks, reach) for bucket in buckets]
        outs = [
            torch.zeros(bucket.shard, dtype=bucket.like.dtype, device=bucket.like.device)
            for bucket in buckets
        ]
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
            _all_gather(whole, target, self.group)
            _unflatten(bucket, whole, params, merged)
        return report, [gradient for gradient in merged if gradient is not None]

    def _scatter(
        self,
        bucket: _Bucket,
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

    def _scatter_one(self, bucket: _Bucket, rows: Sequence[Tensor | None]) -> Tensor:
        shard = torch.empty(bucket.shard, dtype=bucket.like.dtype, device=bucket.like.device)
        _reduce_scatter(shard, bucket.flatten(rows), self.group)
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
        for bucket in _buckets(params, [(0, 1)] * len(params), self.world):
            _unflatten(bucket, self.total(bucket.flatten(out)), params, merged)
        return report, [gradient for gradient in merged if gradient is not None]


def stop_averaging(module: torch.nn.Module) -> None:
    """Switches the gradient averaging of a ``DistributedDataParallel`` off, as its ``no_sync`` does.

    Raises:
        TypeError: If it is another module.
    """
    if not isinstance(module, torch.nn.parallel.DistributedDataParallel):
        raise TypeError(
            f"Parameter `module` should be a DistributedDataParallel. Found {type(module).__name__}."
        )
    module.require_backward_grad_sync = False


def _buckets(
    params: Sequence[Tensor], reach: Sequence[tuple[int, ...]], world: int
) -> list[_Bucket]:
    """One for each dtype: of the parameters that several tasks reach, and of those that one does."""
    sorted_: dict[tuple[torch.dtype, bool], list[int]] = {}
    for p, param in enumerate(params):
        sorted_.setdefault((param.dtype, len(reach[p]) > 1), []).append(p)
    return [
        _Bucket(
            params, places, sorted({t for p in places for t in reach[p]}) if common else None, world
        )
        for (_, common), places in sorted_.items()
    ]


def _unflatten(
    bucket: _Bucket, whole: Tensor, params: Sequence[Tensor], merged: list[Tensor | None]
) -> None:
    for p, start, stop in zip(bucket.places, bucket.offsets, bucket.offsets[1:], strict=False):
        merged[p] = whole[start:stop].view_as(params[p])


def _counts(samples: Samples, tasks: Tasks) -> list[float]:
    """The number of samples of each task in this process's batch; 0 for one that is absent."""
    if isinstance(samples, Mapping):
        names = tasks.names or ()
        unknown = [name for name in samples if name not in names]
        if unknown:
            raise ValueError(
                f"Parameter `samples` should name tasks out of {list(names)}. Found {unknown[0]!r}."
            )
        counts = [float(samples.get(name, 1.0)) for name in names]
    elif isinstance(samples, Sequence):
        counts = [float(count) for count in samples]
    else:
        counts = [float(samples)] * len(tasks.losses)
    if len(counts) != len(tasks.losses) or not all(0.0 <= c < float("inf") for c in counts):
        raise ValueError(
            f"Parameter `samples` should hold {len(tasks.losses)} numbers of at least 0. Found {samples!r}."
        )
    return [0.0 if loss is None else c for c, loss in zip(counts, tasks.losses, strict=True)]


def _reduce_scatter(out: Tensor, whole: Tensor, group: dist.ProcessGroup | None) -> None:
    # torch 2.13 has another name for the same function, and warns of the old one.
    call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    call(out, whole, group=group)


def _all_gather(whole: Tensor, part: Tensor, group: dist.ProcessGroup | None) -> None:
    call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    call(whole, part, group=group)

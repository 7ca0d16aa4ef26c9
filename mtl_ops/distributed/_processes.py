"""What processes that merge together have to agree on."""

from __future__ import annotations

import contextlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..gradients.tasks import Tasks
from ..merging.call import Call
from ..merging.report import Report
from ..merging.sink import Early, Sink, add_to_grads
from ._collectives import Collectives
from ._memory import Watched, Watcher
from ._samples import Samples, read_samples
from ._settings import compare

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Processes"]

#: What each process tells the others of each task before a backward: how many samples it has of it,
#: its loss times that number, whether it has the task, what it reaches, whether it failed to read them,
#: whether the method was given something, and a hash of which parameters require a gradient.
_COUNT, _LOSS, _HAS, _REACH, _FAILED, _GIVEN, _TRAINED = FACTS = range(7)


class Processes(Sink, ABC):
    """The processes of a group, seen from one of them.

    Args:
        group: The process group; ``None`` for the default one.

    Attributes:
        one_backward: Whether the gradients of all tasks can come from one backward.
        leaves_known: Whether the optimizer's parameters are the leaves of the losses' graph.
        reads: How often losses were read.
    """

    alone = False
    one_backward = True
    leaves_known = True

    def __init__(self, group: ProcessGroup | None) -> None:
        self.wire = Collectives(group)
        self.reads = 0
        self.world = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self._watcher = Watcher()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A part of a step that talks to the other processes, and that all of them take part in.

        A process that leaves it by an error, whatever that is, tells the others first, which then raise an error
        that names it, within a second or so where they wait for collectives of ours on the CPU, and
        otherwise at the time-out of the group. After that, if all of them left the same step, the next one
        goes on as if there had been none; if not (one failed when others had ended the step; an error in
        a backward in which FSDP calls collectives), that and every later step is an error on each process.

        Raises:
            RuntimeError: If the processes cannot go on after what has failed before.
        """
        with self.wire.call():
            try:
                if self.wire.watch.resumed:
                    self._check_memory()
                yield
            except BaseException:
                self.forget()
                raise

    def _check_memory(self) -> None:
        """After a failure: what is remembered has to be the same, or the processes drift apart."""
        self.wire.watch.resumed = False
        try:
            compare(self.wire, self._watcher.remembered(), self._device)
        except ValueError as error:
            raise self.wire.watch.common(
                self.wire.watch.close(f"another state ({error})")
            ) from error

    @abstractmethod
    def forget(self) -> None:
        """After an error: forgets what was expected of the next step, which other processes may not expect."""

    # ---- what differs ---------------------------------------------------------------------------

    @abstractmethod
    def check_parameters(self, params: Sequence[Tensor]) -> None:
        """Checks that all processes hold the same parameters.

        Raises:
            ValueError: On every process, if they do not.
        """

    @abstractmethod
    def merged(
        self, call: Call, rows: Sequence[Tensor | None], early: Early | None
    ) -> tuple[Report, dict[int, Tensor]]:
        """The merged gradient of each parameter that any task reaches on any process, by its place."""

    def merge(self, call: Call, rows: list[Tensor | None], early: Early | None = None) -> Report:
        """Merges ``T × P`` gradients of this process, adds the result to ``.grad``, and empties the list."""
        report, merged = self.merged(call, rows, early)
        rows.clear()
        add_to_grads(merged, call.params.tensors)
        return report

    def derive(
        self,
        outputs: Sequence[Any],
        params: Sequence[Tensor],
        factors: Sequence[Tensor | None],
        retain_graph: bool,
    ) -> Sequence[Tensor | None]:
        """The gradient of ``Σ factor · output`` by each parameter, as ``torch.autograd.grad``.

        Args:
            outputs: Tensors or edges of a graph.
            params: What to differentiate by.
            factors: Of the outputs; ``None`` for 1.
            retain_graph: Keeps the graph for another backward.
        """
        return torch.autograd.grad(
            outputs, params, factors, retain_graph=retain_graph, allow_unused=True
        )

    def _whole(self, tasks: Tasks) -> Tasks:
        """The tasks with losses that are plain tensors."""
        return tasks

    def _reach(self, tasks: Tasks) -> list[float]:
        """A number for each task that has to be the same on all processes."""
        return [0.0] * len(tasks.losses)

    @abstractmethod
    def _check_table(self, tasks: Tasks, table: list[list[list[float]]]) -> None:
        """Raises a ``ValueError``, the same on all processes, if they cannot go on together."""

    def _shares(self, counts: Sequence[float], total: Sequence[float]) -> tuple[float, ...] | None:
        """What this process's gradients count for."""
        return tuple(c / t if t else 0.0 for c, t in zip(counts, total, strict=True))

    # ---- the same on all processes --------------------------------------------------------------

    def begin(
        self,
        facts: Mapping[str, Any],
        generator: torch.Generator | None,
        device: torch.device,
        owner: Watched,
    ) -> torch.Generator:
        """Checks what the optimizer was made with, and returns what all of them draw numbers from.

        Args:
            facts: Everything that has to be the same.
            generator: What this process would draw from; ``None`` for one with the seed of rank 0.
            device: Of the parameters.
            owner: Of which is compared what it remembers after a failure, and which parameters require a
                gradient.

        Raises:
            ValueError: On every process, if it is not the same.
        """
        self._device, self._watcher = device, Watcher(owner)
        with self.wire.call():
            self.check_same(facts, device)
            if generator is not None:
                self.check_same({"generator": generator.get_state()}, device)
                return generator
            seeds = self.wire.gather(torch.initial_seed(), device)
            return torch.Generator(device).manual_seed(seeds[0])

    def check_same(self, arguments: Mapping[str, Any], device: torch.device) -> None:
        """Checks that arguments are the same everywhere: all processes solve the same problem.

        Raises:
            ValueError: On every process, if one is not.
        """
        compare(self.wire, arguments, device)

    # ---- agreement ------------------------------------------------------------------------------

    def common(self, text: str) -> Exception:
        """An error that every process raises at the same place."""
        return self.wire.watch.common(ValueError(text))

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        tensor = tensor.contiguous()
        self.wire.all_reduce(tensor)
        return tensor

    def read(
        self,
        read: Callable[[], Tasks],
        count: int | None,
        samples: Samples,
        device: torch.device,
        given: Mapping[str, Any] | None = None,
    ) -> Tasks:
        """The tasks with what this process's gradients count for in those of the joint batch.

        Each task's loss in the joint batch is the mean of the processes' losses, weighed by their
        numbers of samples; a process without the task has none. Waits for the device once: whether
        any process has a task decides what is computed next.

        Args:
            read: Returns what the user handed in, or raises.
            count: T; ``None`` if this is the first call, before which nothing is known to be the same.
            samples: How many samples the losses are means of.
            device: Where the losses are.
            given: What the user hands to the method.

        Raises:
            TypeError: As ``read``, on this process.
            ValueError: As ``read``, or on every process if one of them failed to read its losses, no
                process has a loss, or the tasks, or what is given, are not the same.
        """
        self.reads += 1
        problem: TypeError | ValueError | None = None
        tasks, counts = Tasks(None, ()), [0.0]
        try:
            tasks = self._whole(read())
            counts = read_samples(samples, tasks)
        except (TypeError, ValueError) as error:
            problem = error
        if count is None:
            self._check_names(tasks, problem, device)
            count = len(tasks.losses)
        table = self._exchange(tasks, counts, count, problem, given, device)
        rows = table.tolist()
        if any(row[_FAILED][0] for row in rows):
            text = None if problem is None else str(problem)
            self._raise_together(problem, self.wire.gather(text, device))
        if any(row[_TRAINED][0] != rows[0][_TRAINED][0] for row in rows):
            self.check_same({"requires_grad": self._watcher.trained()}, device)
        self._check_table(tasks, rows)
        if any(row[_GIVEN][0] for row in rows):
            self.check_same(given or {}, device)
        total = [sum(row[_COUNT][t] for row in rows) for t in range(count)]
        if not any(any(row[_HAS]) for row in rows):
            raise self.common(
                "Parameter `losses` should hold at least one loss on some process. Found none."
            )
        sums = table[:, : _LOSS + 1].sum(dim=0)
        return replace(
            tasks,
            shares=self._shares(counts, total),
            part=tuple(t > 0 for t in total),
            totals=sums[_LOSS] / sums[_COUNT],
        )

    def _check_names(self, tasks: Tasks, problem: Exception | None, device: torch.device) -> None:
        """The first exchange: until then the number of tasks may differ."""
        names = None if tasks.names is None else list(tasks.names)
        text = None if problem is None else str(problem)
        facts = self.wire.gather([names, len(tasks.losses), text], device)
        if any(fact[2] is not None for fact in facts):
            self._raise_together(problem, [fact[2] for fact in facts])
        for rank, (others, count, _) in enumerate(facts):
            first, before, _ = facts[0]
            if (others, count) != (first, before):
                raise self.common(
                    "Parameter `losses` should hold the same tasks on all processes. "
                    f"Found {first or before} on rank 0 and {others or count} on rank {rank}."
                )

    def _raise_together(self, problem: Exception | None, texts: Sequence[str | None]) -> None:
        if problem is not None:
            raise self.wire.watch.common(problem)
        rank = next(rank for rank, text in enumerate(texts) if text is not None)
        raise self.common(
            "Parameter `losses` should be right on all processes. "
            f"Found an error on rank {rank}: {texts[rank]}"
        )

    def _exchange(
        self,
        tasks: Tasks,
        counts: Sequence[float],
        count: int,
        problem: Exception | None,
        given: Mapping[str, Any] | None,
        device: torch.device,
    ) -> Tensor:
        """``(world, 7, T)`` float64, what every process has to say of each task."""
        mine = torch.zeros(len(FACTS), count, dtype=torch.float64)
        mine[_GIVEN] = float(bool(given))
        mine[_TRAINED] = float(zlib.crc32(bytes(self._watcher.trained())))
        if problem is not None:
            mine[_FAILED] = 1.0
            mine = mine.to(device)
        else:
            mine[_COUNT] = torch.tensor(counts)
            mine[_HAS] = torch.tensor([float(loss is not None) for loss in tasks.losses])
            mine[_REACH] = torch.tensor(self._reach(tasks))
            mine = mine.to(device)
            if tasks.present:
                mine[_LOSS] = torch.where(mine[_COUNT] > 0, mine[_COUNT] * tasks.values, 0.0)
        table = torch.empty(self.world * len(FACTS), count, dtype=torch.float64, device=device)
        self.wire.all_gather(table, mine)
        return table.view(self.world, len(FACTS), count)

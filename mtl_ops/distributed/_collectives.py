"""Collectives of one group, under the names that this torch has for them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._faults import watch_of
from ._sequences import Launched

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Collectives"]


class Collectives:
    """What the processes of a group do together; each call raises if one of them fails or is lost.

    Args:
        group: The process group; ``None`` for the default one.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group
        self.watch = watch_of(group)
        self.world = dist.get_world_size(group)
        self.rank = dist.get_rank(group)

    def call(self) -> contextlib.AbstractContextManager[None]:
        """See :meth:`Watch.call`: everything below belongs into one."""
        return self.watch.call(self._launch_again)

    def all_reduce(self, tensor: Tensor, largest: bool = False) -> None:
        """Replaces elements by their sums, or the largest, over all processes."""
        self._finish(self._start("maximum" if largest else "sum", tensor), tensor)

    def all_gather(self, whole: Tensor, part: Tensor) -> None:
        """The parts of all processes behind one another."""
        self._finish(self._start("gather", part, whole), part)

    def start_reduce_scatter(self, out: Tensor, whole: Tensor) -> Callable[[], None]:
        """The sum over all processes of this process's part of ``whole``; returns what waits for it.

        What is in ``whole`` is lost. On the CPU all parts are summed: that is what gloo's reduce-scatter does, too, but
        in a copy, and waiting for it cannot be cut short by news of a failure.
        """
        if whole.device.type != "cpu":
            work = self._start("scatter", whole, out)
            return lambda: self._finish(work, whole)
        work = self._start("sum", whole)

        def finish() -> None:
            self._finish(work, whole)
            out.copy_(whole.view(self.world, -1)[self.rank])

        return finish

    def gather(self, fact: Any, device: torch.device) -> list[Any]:
        """The fact of every process, by rank, as JSON has it; through memory of the device."""
        text = torch.frombuffer(bytearray(json.dumps(fact), "utf8"), dtype=torch.uint8).to(device)
        sizes = torch.empty(self.world, dtype=torch.int64, device=device)
        self.all_gather(sizes, torch.tensor([len(text)], device=device))
        lengths = sizes.tolist()
        part = torch.nn.functional.pad(text, (0, max(lengths) - len(text)))
        whole = torch.empty(self.world * len(part), dtype=torch.uint8, device=device)
        self.all_gather(whole, part)
        return [
            json.loads(bytes(row[:length].tolist()))
            for row, length in zip(whole.cpu().view(self.world, -1), lengths, strict=True)
        ]

    def _start(self, kind: str, given: Tensor, out: Tensor | None = None) -> Any:
        dtype = str(given.dtype).removeprefix("torch.")
        try:
            work = self._call(kind, given, out)
        except RuntimeError as error:
            raise self.watch.lost(error) from error
        self.watch.launched.append([kind, dtype, given.numel(), given.device.type])
        return self.watch.flying(work)

    def _call(self, kind: str, given: Tensor, out: Tensor | None) -> Any:
        # torch 2.13 has other names for the same functions, and warns of the old ones.
        if kind == "gather":
            call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
            return call(out, given, group=self.group, async_op=True)
        if kind == "scatter":
            call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
            return call(out, given, group=self.group, async_op=True)
        op = dist.ReduceOp.MAX if kind == "maximum" else dist.ReduceOp.SUM
        return dist.all_reduce(given, op=op, group=self.group, async_op=True)

    def _launch_again(self, one: Launched) -> Any:
        """What another process has called and this one has not, with zeros."""
        kind, dtype, size, device = one
        given = torch.zeros(size, dtype=getattr(torch, dtype), device=device)
        sizes = {"gather": size * self.world, "scatter": size // self.world}
        out = given.new_empty(sizes[kind]) if kind in sizes else None
        return self._call(kind, given, out)

    def _finish(self, work: Any, tensor: Tensor) -> None:
        self.watch.wait(work, tensor.device.type == "cpu")

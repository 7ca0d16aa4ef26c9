"""Collectives of one group, under the names that this torch has for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._faults import Watch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Collectives"]


class Collectives:
    """What the processes of a group do together; each call raises if one of them is lost.

    Args:
        group: The process group; ``None`` for the default one.
    """

    def __init__(self, group: ProcessGroup | None) -> None:
        self.group = group
        self.watch = Watch(group)
        self.world = dist.get_world_size(group)

    def all_reduce(self, tensor: Tensor, largest: bool = False) -> None:
        """Replaces elements by their sums, or the largest, over all processes."""
        op = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
        self._run(tensor, dist.all_reduce, tensor, op=op)

    def all_gather(self, whole: Tensor, part: Tensor) -> None:
        """The parts of all processes behind one another."""
        # torch 2.13 has other names for the same functions, and warns of the old ones.
        call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        self._run(whole, call, whole, part)

    def start_reduce_scatter(self, out: Tensor, whole: Tensor) -> Callable[[], None]:
        """The sum over all processes of this process's part of ``whole``; returns what waits for it."""
        call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        return self._start(out, call, out, whole)

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

    def _run(self, tensor: Tensor, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._start(tensor, call, *args, **kwargs)()

    def _start(
        self, tensor: Tensor, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Callable[[], None]:
        try:
            work = call(*args, group=self.group, async_op=True, **kwargs)
        except RuntimeError as error:
            raise self.watch.lost(error) from error
        return lambda: self.watch.wait(work, tensor.device.type == "cpu")

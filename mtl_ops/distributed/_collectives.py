"""Collectives under the names that this torch has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["all_gather", "reduce_scatter"]


def reduce_scatter(out: Tensor, whole: Tensor, group: ProcessGroup | None) -> None:
    """The sum over all processes of this process's part of ``whole``."""
    # torch 2.13 has another name for the same function, and warns of the old one.
    call = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    call(out, whole, group=group)


def all_gather(whole: Tensor, part: Tensor, group: ProcessGroup | None) -> None:
    """The parts of all processes behind one another."""
    call = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    call(whole, part, group=group)

"""From the optimizer's arguments to the processes it merges over."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from ..gradients.storage import is_dtensor
from ._collectives import Collectives
from ._data_parallel import DataParallel
from ._processes import Processes
from ._sharded import Sharded, fsdp_modules

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Distributed", "make_processes"]

Distributed = Literal["auto", "exact", "mean_gram"]


def make_processes(
    mode: Distributed | None,
    group: ProcessGroup | None,
    module: torch.nn.Module | None,
    params: Sequence[Tensor],
) -> Processes | None:
    """The processes to merge over; ``None`` for a single process.

    Raises:
        ValueError: If the mode is unknown, no process group is initialised for it, the parameters are
            not the same on all processes, or it cannot be used with DTensors.
        TypeError: If the module is neither a ``DistributedDataParallel`` nor one of ``fully_shard``.
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
    alone = mode is None or not running or dist.get_world_size(group) == 1
    with contextlib.nullcontext() if alone else Collectives(group).call():
        processes = _choose(mode, group, module, params)
        if processes is not None:
            processes.check_parameters(params)
    return processes


def _choose(
    mode: Distributed | None,
    group: ProcessGroup | None,
    module: torch.nn.Module | None,
    params: Sequence[Tensor],
) -> Processes | None:
    running = dist.is_available() and dist.is_initialized()
    wrapped = _adopt(module)
    if any(is_dtensor(param) for param in params):
        if mode not in ("auto", "exact"):
            raise ValueError(
                "Parameter `distributed` should be 'auto' or 'exact' for DTensors. "
                f"Found `distributed = {mode!r}`."
            )
        if not running:
            raise ValueError(
                "Parameter `optimizer` should hold DTensors only while a process group is initialised. Found one."
            )
        return Sharded(params, group, wrapped)
    if wrapped is not None:
        raise ValueError(
            "Parameter `optimizer` should hold the parameters that `fully_shard` has made: make it afterwards. "
            "Found plain tensors."
        )
    if mode is None or not running or dist.get_world_size(group) == 1:
        return None
    return DataParallel("exact" if mode == "auto" else mode, group)


def _adopt(module: torch.nn.Module | None) -> torch.nn.Module | None:
    """The module if it is one of ``fully_shard``; the averaging of other wrappers is switched off.

    Raises:
        TypeError: If it is neither.
    """
    if module is None:
        return None
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        module.require_backward_grad_sync = False  # as its `no_sync` does
        return None
    if not dist.is_available() or not fsdp_modules(module):
        raise TypeError(
            "Parameter `module` should be a DistributedDataParallel, or a module that `fully_shard` was applied to. "
            f"Found {type(module).__name__}."
        )
    return module

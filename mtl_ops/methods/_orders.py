"""In which order the other tasks correct a task: of PCGrad and GradVac."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ops.capture import drawing
from ..ops.known import readable
from ._checks import only

__all__ = ["ORDERS", "orders_for"]

#: Up to how many numbers are sorted on the host: more take longer there.
FEW = 64

#: What a user can choose between.
ORDERS = ("random", "shared", "cyclic")


def orders_for(
    order: str, given: Mapping[str, Any], gram: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Orders of the tasks ``(S, T, K)`` int64 for Gram matrices ``(S, T, T)``.

    Args:
        order: ``"random"``, a permutation for each task of each segment; ``"shared"``, one for each
            segment (nothing is drawn for fewer than three tasks); or ``"cyclic"``, the tasks as they come.
        given: May hold ``orders``, which are then the answer.
        gram: ``(S, T, T)``.
        generator: Where permutations come from.

    Raises:
        TypeError: If ``orders`` is no tensor of integers, or something else is given.
        ValueError: If the shape of ``orders`` is wrong.
    """
    only(given, "orders")
    segments, tasks = gram.shape[:2]
    if given.get("orders") is not None:
        return _checked(given["orders"], gram)
    if order == "cyclic" or tasks <= 2:  # of two tasks each meets the other one
        if gram.numel() <= FEW and readable(gram):
            return _as_they_come(segments, tasks)
        chosen = torch.arange(tasks, device=gram.device)
    else:
        # On the device, without a wait. Integers, because ties among few digits would favour the
        # first task.
        rows = tasks if order == "random" else 1
        keys = torch.empty(segments, rows, tasks, dtype=torch.int64, device=gram.device)
        with drawing(generator):
            keys.random_(generator=generator)
        if order == "random" and keys.numel() <= FEW and readable(keys):
            drawn = [[_sorted(row) for row in rows] for rows in keys.tolist()]
            return torch.tensor(drawn)  # the same in fewer calls
        chosen = keys.argsort(dim=-1)
    return chosen.expand(segments, tasks, tasks).contiguous()


@functools.cache  # of a few small numbers
def _as_they_come(segments: int, tasks: int) -> Tensor:
    """Nobody writes to it."""
    return torch.tensor([[[*range(tasks)]] * tasks] * segments)


def _sorted(keys: list[int]) -> list[int]:
    """Places in the order of the keys."""
    return sorted(range(len(keys)), key=keys.__getitem__)


def _checked(orders: Any, gram: Tensor) -> Tensor:
    if not isinstance(orders, Tensor) or orders.is_floating_point() or orders.is_complex():
        found = orders.dtype if isinstance(orders, Tensor) else type(orders).__name__
        raise TypeError(f"Parameter `orders` should be a tensor of integers. Found {found}.")
    segments, tasks = gram.shape[:2]
    stacked = orders.unsqueeze(0) if orders.dim() == 2 else orders
    if stacked.dim() != 3 or stacked.shape[1] != tasks or stacked.shape[0] not in (1, segments):
        raise ValueError(
            f"Parameter `orders` should have shape ({tasks}, K) or ({segments}, {tasks}, K), a row "
            f"for each task. Found shape {tuple(orders.shape)}."
        )
    length = stacked.shape[2]
    return stacked.to(gram.device, torch.int64).expand(segments, tasks, length).contiguous()

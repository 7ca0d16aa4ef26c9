"""What goes wrong on one process is told on all of them, within the time-out of the group."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import CONTEXT, DATA, Net, free_port, join_group, losses_of, shard
from torch import Tensor

from mtl_ops import MultiTaskOptimizer

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

SECONDS = 15.0


def survive(rank: int, optimizer: MultiTaskOptimizer, losses: dict[str, Tensor]) -> None:
    """Rank 1 is lost; the error of each other one names it in time."""
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"no sign of rank 1, on rank {rank} \("):
        optimizer.backward(losses)
    assert time.monotonic() - start < SECONDS


def different_tasks(rank: int) -> None:
    """In the first step, and later; a task of the wrong kind; then the run goes on."""
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    losses = losses_of(net(DATA)[1])
    with pytest.raises(TypeError if rank == 1 else ValueError, match="Found loss 'c' of type str"):
        optimizer.backward({**losses, "c": "text"} if rank == 1 else losses)
    optimizer.backward(losses, retain_graph=True)
    with pytest.raises(ValueError, match=r"only the tasks \['a', 'b', 'c'\].* Found 'd'"):
        optimizer.backward({**losses, "d": losses["a"]} if rank == 1 else losses)
    with pytest.raises(ValueError, match="`samples` should hold 3 numbers of at least 0"):
        optimizer.backward(losses, samples=-1.0 if rank == 1 else 1.0)
    with pytest.raises(ValueError, match="at least one loss on some process"):
        optimizer.backward({})
    optimizer.backward(losses)


def dies(rank: int) -> None:
    """Rank 3 of four talks to rank 1 in no collective, and would wait for the others' ends."""
    different_tasks(rank)
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    losses = losses_of(net(DATA)[1])
    if rank == 1:
        os._exit(0)
    survive(rank, optimizer, losses)


def hangs(rank: int) -> None:
    """Rank 1 does something else for longer than the others' time-out."""
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    if rank == 1:
        time.sleep(2 * SECONDS)
    survive(rank, optimizer, losses_of(net(DATA)[1]))


def dies_in_backward(rank: int) -> None:
    """In FSDP's backward, and not where it says that it has the same tasks."""
    net = shard(Net())
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), module=net)
    features, outputs = net(DATA)
    if rank == 1:
        features.register_hook(lambda grad: os._exit(0))
    survive(rank, optimizer, losses_of(outputs))


def run(rank: int, world: int, port: int, body: Callable[[int], None], answers: Any) -> None:
    join_group(rank, world, port, 4.0 if body is hangs else SECONDS)
    try:
        body(rank)
        answers.put((rank, ""))
    except BaseException:
        answers.put((rank, traceback.format_exc()))
    time.sleep(3 * SECONDS)  # a process that ends tells its neighbours, which is not what is tested


@pytest.mark.parametrize(("world", "body"), [(4, dies), (2, dies_in_backward), (2, hangs)])
def test_a_lost_process_is_named(world: int, body: Callable[[int], None]) -> None:
    answers = CONTEXT.Queue()
    port = free_port()
    processes = [
        CONTEXT.Process(target=run, args=(rank, world, port, body, answers), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=2 * SECONDS) for _ in range(world - 1))
    for process in processes:
        process.kill()
    assert not any(found.values()), "\n".join(found.values())
    assert sorted(found) == [rank for rank in range(world) if rank != 1]

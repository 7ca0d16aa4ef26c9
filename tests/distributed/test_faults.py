"""What goes wrong on one process is told on all of them, within the time-out of the group."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import CONTEXT, DATA, Net, free_port, join_group, losses_of, shard
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

#: The time-out of the groups; that of processes that wait for it.
SECONDS, SHORT = 15.0, 4.0


def survive(rank: int, optimizer: MultiTaskOptimizer, losses: dict[str, Tensor]) -> None:
    """Rank 1 is lost; the error of each other one names it in time."""
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"no sign of rank 1, on rank {rank}\b"):
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
        time.sleep(5 * SECONDS)
    survive(rank, optimizer, losses_of(net(DATA)[1]))


def dies_in_backward(rank: int) -> None:
    """In FSDP's backward, and not where it says that it has the same tasks."""
    net = shard(Net())
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), module=net)
    features, outputs = net(DATA)
    if rank == 1:
        features.register_hook(lambda grad: os._exit(0))
    survive(rank, optimizer, losses_of(outputs))


def stopped(rank: int) -> None:
    """Rank 0, which has the store, stands still, and no connection is closed."""
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))
    if rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    losses, start = losses_of(net(DATA)[1]), time.monotonic()
    with pytest.raises(RuntimeError, match=r"process with the store, most often rank 0, was lost"):
        optimizer.backward(losses)
    assert time.monotonic() - start < SECONDS


def killed(rank: int, kind: str = "exact", victim: int = 1, delay: float = 1.0) -> None:
    """At any time of a loop of steps."""
    net: nn.Module = Net()
    options: dict[str, Any] = {"distributed": kind}
    if kind == "fsdp":
        options = {"module": shard(net)}  # type: ignore[arg-type]
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.01), **options)
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    if rank == victim:
        timer.start()
    start = time.monotonic()
    # a forward of FSDP is torch's own, and an error in it has other words
    words = "" if kind == "fsdp" else "All 2 processes should take part in merging"
    with pytest.raises(RuntimeError, match=words):
        while time.monotonic() - start < 2 * SECONDS:
            optimizer.zero_grad()
            optimizer.backward(losses_of(net(DATA)[1]))
            optimizer.step()
    assert delay - 1 < time.monotonic() - start < delay + SECONDS


#: What happens, on how many processes, and to which of them.
LOST: dict[str, tuple[Callable[..., None], int, int, float]] = {
    "dies": (dies, 4, 1, SECONDS),
    "dies in backward": (dies_in_backward, 2, 1, SECONDS),
    "hangs": (hangs, 2, 1, SHORT),
    "stopped": (stopped, 2, 0, SHORT),
    "killed": (killed, 2, 1, SECONDS),
    "killed, with the store": (
        functools.partial(killed, kind="mean_gram", victim=0, delay=0.7),
        2,
        0,
        SECONDS,
    ),
    "killed, in FSDP": (functools.partial(killed, kind="fsdp", delay=1.3), 2, 1, SECONDS),
}


def run(
    rank: int, world: int, port: int, seconds: float, body: Callable[[int], None], answers: Any
) -> None:
    join_group(rank, world, port, seconds)
    try:
        body(rank)
        answers.put((rank, ""))
    except BaseException:
        answers.put((rank, traceback.format_exc()))
    time.sleep(5 * SECONDS)  # a process that ends tells its neighbours, which is not what is tested


class Lost:
    """Processes of which one is lost."""

    def __init__(
        self, body: Callable[[int], None], world: int, victim: int, seconds: float
    ) -> None:
        self.world, self.victim = world, victim
        self.answers = CONTEXT.Queue()
        args = (world, free_port(), seconds, body, self.answers)
        self.processes = [
            CONTEXT.Process(target=run, args=(rank, *args), daemon=True) for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def check(self) -> None:
        """What the others have found."""
        found = dict(self.answers.get(timeout=4 * SECONDS) for _ in range(self.world - 1))
        assert not any(found.values()), "\n".join(found.values())
        assert sorted(found) == [rank for rank in range(self.world) if rank != self.victim]

    def end(self) -> None:
        for process in self.processes:
            process.kill()


@pytest.fixture(scope="module")
def lost() -> Iterator[dict[str, Lost]]:
    """All at once: they sleep most of the time."""
    started = {name: Lost(*one) for name, one in LOST.items()}
    yield started
    for one in started.values():
        one.end()


@pytest.mark.parametrize("name", LOST)
def test_a_lost_process_is_named(name: str, lost: dict[str, Lost]) -> None:
    lost[name].check()

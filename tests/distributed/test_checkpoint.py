"""Checkpoints of four processes, and the run that two of them go on with."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from processes import DATA, Net, assert_same, join_again, losses_of, on_processes, shard
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

from mtl_ops import MultiTaskOptimizer
from mtl_ops.distributed import TrainingState

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

#: Of methods with random numbers, and with parameters of their own.
SAVED = [("ddp", "uncertainty"), ("fsdp", "uncertainty"), ("fsdp", "pcgrad")]
RESUMED = [*((kind, kind, method) for kind, method in SAVED), ("ddp", "fsdp", "pcgrad")]


def start(kind: str, method: str, seed: int) -> tuple[nn.Module, MultiTaskOptimizer]:
    """A model whose weights and random numbers a checkpoint replaces, but for one seed."""
    net: nn.Module = Net().double()
    with torch.no_grad():
        for param in net.parameters():
            param.add_(seed)
    options: dict[str, Any] = {"distributed": None}
    if kind == "ddp":
        options = {"module": (net := nn.parallel.DistributedDataParallel(net))}
    if kind == "fsdp":
        options = {"module": (net := shard(net))}
    inner = torch.optim.Adam(net.parameters(), lr=0.01 * (1 + seed))
    generator = torch.Generator().manual_seed(seed)
    return net, MultiTaskOptimizer(
        inner, method, tasks=["a", "b", "c"], generator=generator, **options
    )


def steps(net: nn.Module, optimizer: MultiTaskOptimizer, parts: int, part: int) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(losses_of(net(DATA.double().chunk(parts)[part])[1]))
        optimizer.step()


def save(rank: int, world: int, folder: Path) -> None:
    for kind, method in SAVED:
        net, optimizer = start(kind, method, 0)
        steps(net, optimizer, world, rank)
        state = {"training": TrainingState(net, optimizer)}
        dcp.save(state, checkpoint_id=folder / f"{kind}-{method}")


def resume(rank: int, world: int, folder: Path) -> None:
    """Of what either kind has saved, as either kind."""
    for kind, saved, method in RESUMED:
        alone, one = start("alone", method, 0)
        steps(alone, one, 1, 0)
        steps(alone, one, 1, 0)
        net, optimizer = start(kind, method, 1)
        state = {"training": TrainingState(net, optimizer)}
        dcp.load(state, checkpoint_id=folder / f"{saved}-{method}")
        steps(net, optimizer, world, rank)
        assert_same(alone, net, 1e-9)
        own = [list(o.learnable) for o in (one, optimizer)]
        assert len(own[0]) == (method == "uncertainty")
        for first, second in zip(*own, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)
            assert len(optimizer.optimizer.state[second]) == 3
        assert optimizer._merger.progress.steps == 4


def test_four_processes_save_and_two_go_on(tmp_path: Path) -> None:
    on_processes(4, [save], tmp_path)
    on_processes(2, [resume], tmp_path)


def killed(rank: int, world: int, folder: Path, point: str) -> None:
    """One complete checkpoint, and another one that a process does not live to complete."""
    join_again(20.0)
    net, optimizer = start("fsdp", "pcgrad", 0)
    state = {"training": TrainingState(net, optimizer), "step": 1}
    steps(net, optimizer, world, rank)
    dcp.save(state, checkpoint_id=folder / "1")
    steps(net, optimizer, world, rank)
    writer = FileSystemWriter(folder / "2")
    name = "write_data" if rank == 1 else "finish"
    call = getattr(writer, name)

    def die(*args: Any, **kwargs: Any) -> Any:
        if point == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    if (rank, point) in ((1, "before"), (1, "after"), (0, "end")):
        point = "before" if point == "end" else point
        setattr(writer, name, die)
    with pytest.raises(Exception, match=r"."):
        dcp.save({**state, "step": 2}, storage_writer=writer)


@pytest.mark.parametrize("point", ["before", "after", "end"])
def test_a_process_is_killed_while_they_save(point: str, tmp_path: Path) -> None:
    """Before or after it has written its part, and before the metadata are."""
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_processes(2, [killed], tmp_path, point)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    assert [path.parent.name for path in tmp_path.glob("*/.metadata")] == ["1"]
    on_processes(1, [loaded], tmp_path / "1")


def loaded(rank: int, world: int, folder: Path) -> None:
    alone, one = start("alone", "pcgrad", 0)
    steps(alone, one, 1, 0)
    net, optimizer = start("fsdp", "pcgrad", 1)
    state = {"training": TrainingState(net, optimizer), "step": 0}
    dcp.load(state, checkpoint_id=folder)
    assert state["step"] == 1
    assert_same(alone, net, 1e-9)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
class TestAlone:
    """One process, without a process group."""

    def test_round_trip(self, tmp_path: Path) -> None:
        net, optimizer = start("alone", "uncertainty", 0)
        steps(net, optimizer, 1, 0)
        dcp.save({"t": TrainingState(net, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
        steps(net, optimizer, 1, 0)
        other, resumed = start("alone", "uncertainty", 1)
        dcp.load({"t": TrainingState(other, resumed)}, checkpoint_id=tmp_path, no_dist=True)
        steps(other, resumed, 1, 0)
        assert_same(net, other, 0.0)
        assert torch.equal(optimizer.learnable[0], resumed.learnable[0])

    def test_of_another_method(self, tmp_path: Path) -> None:
        net, optimizer = start("alone", "pcgrad", 0)
        dcp.save({"t": TrainingState(net, optimizer)}, checkpoint_id=tmp_path, no_dist=True)
        net, optimizer = start("alone", "gradvac", 0)
        with pytest.raises(ValueError, match=r"of method 'gradvac'\. Found one of 'pcgrad'"):
            dcp.load({"t": TrainingState(net, optimizer)}, checkpoint_id=tmp_path, no_dist=True)

"""Hugging Face Accelerate: two processes with halves of the batches, and its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, Net, assert_same, losses_of, on_processes
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer

pytest.importorskip("accelerate")
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")

SIZE = 6  # of the joint batches


def accelerate(rank: int, world: int, **options: Any) -> Any:
    """An Accelerator that finds what ``torchrun`` would have told it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, **options)
    assert accelerator.num_processes == world
    return accelerator


def prepare(
    accelerator: Any, net: nn.Module, **options: Any
) -> tuple[nn.Module, Any, MultiTaskOptimizer]:
    """As the example does: the loader hands out batches in turn, which together are a joint one."""
    size = SIZE // accelerator.num_processes
    model, loader = accelerator.prepare(net, torch.utils.data.DataLoader(DATA, size))  # type: ignore[arg-type]
    assert isinstance(model, nn.parallel.DistributedDataParallel)
    return model, loader, wrap(model, module=model, **options)


def wrap(model: nn.Module, **options: Any) -> MultiTaskOptimizer:
    inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return MultiTaskOptimizer(inner, "upgrad", **options)


def train(model: nn.Module, batches: Iterable[Tensor], optimizer: MultiTaskOptimizer) -> None:
    for batch in batches:
        optimizer.zero_grad()
        optimizer.backward(losses_of(model(batch)[1]))
        optimizer.step()


# ---- what the processes do; each runs on every rank ----------------------------------------------


def as_one_process(rank: int, world: int, folder: Path) -> None:
    alone, joint = Net(), Net()
    train(alone, DATA.split(SIZE), wrap(alone, distributed=None))
    model, loader, optimizer = prepare(accelerate(rank, world), joint)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    train(model, loader, optimizer)
    assert_same(alone, joint)
    expected = [batch.chunk(world)[rank] for batch in DATA.split(SIZE)]
    assert all(map(torch.equal, seen, expected))
    assert len(seen) == len(expected)


def accumulated(rank: int, world: int, folder: Path) -> None:
    """``accumulate`` switches DDP's averaging off and back: to off, as it was."""
    alone, joint = Net(), Net()
    train(alone, DATA.split(2 * SIZE), wrap(alone, distributed=None))
    accelerator = accelerate(rank, world, gradient_accumulation_steps=2)
    model, loader, optimizer = prepare(accelerator, joint)
    for batch in loader:
        with accelerator.accumulate(model):
            losses = {k: loss / 2 for k, loss in losses_of(model(batch)[1]).items()}
            if accelerator.sync_gradients:
                optimizer.backward(losses)
                optimizer.step()
                optimizer.zero_grad()
            else:
                optimizer.accumulate(losses)
    assert model.require_backward_grad_sync is False
    assert_same(alone, joint)


def resumed(rank: int, world: int, folder: Path) -> None:
    """The second process writes nothing, and reads what the first has written."""
    whole, first, second = Net(), Net(), Net()
    options = {
        "weights_every": 3
    }  # those of step 4, the last before the checkpoint, hold for 5 and 6
    model, loader, optimizer = prepare(accelerate(rank, world), whole, **options)
    for _ in range(2):
        train(model, loader, optimizer)

    accelerator = accelerate(rank, world)
    model, loader, optimizer = prepare(accelerator, first, **options)
    accelerator.register_for_checkpointing(optimizer)
    train(model, loader, optimizer)
    accelerator.save_state(str(folder))
    accelerator.wait_for_everyone()

    for param in second.parameters():
        nn.init.zeros_(param)
    accelerator = accelerate(rank, world)
    model, loader, optimizer = prepare(accelerator, second, **options)
    accelerator.register_for_checkpointing(optimizer)
    accelerator.load_state(str(folder))
    train(model, loader, optimizer)
    assert all(map(torch.equal, second.parameters(), whole.parameters()))
    assert not any(map(torch.equal, second.parameters(), first.parameters()))


# ---- the tests -----------------------------------------------------------------------------------


def test_two_processes(tmp_path: Path) -> None:
    on_processes(2, [as_one_process, accumulated, resumed], tmp_path)

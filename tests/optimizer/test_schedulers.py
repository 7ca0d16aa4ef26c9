"""Every scheduler of torch steers the wrapped optimizer as it steers a bare one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import Net, assert_same, batch, wrap
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

STEPS = 7

Make = Callable[[Optimizer], Any]


def sequential(optimizer: Optimizer) -> lr_scheduler.SequentialLR:
    first = lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=2)
    second = lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    return lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[3])


def chained(optimizer: Optimizer) -> lr_scheduler.ChainedScheduler:
    first = lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=3)
    second = lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
    return lr_scheduler.ChainedScheduler([first, second], optimizer=optimizer)


SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.8),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=5, power=2.0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, threshold=0.5),
    "SWALR": lambda o: SWALR(o, swa_lr=0.001, anneal_epochs=4),
}


def test_table_holds_every_scheduler_of_torch() -> None:
    found = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type)
        and issubclass(cls, lr_scheduler.LRScheduler)
        and not name.startswith("_")
        and name not in ("LRScheduler", "Optimizer")
    }
    assert found - set(SCHEDULERS) == set()


def inner(net: nn.Module) -> Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def run(net: Net, optimizer: Optimizer, scheduler: Any, steps: range) -> list[tuple[float, float]]:
    """Trains, and records learning rate and momentum before each step."""
    seen = []
    for step in steps:
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        optimizer.zero_grad()
        losses = net.losses(batch(step))
        if hasattr(optimizer, "backward"):
            optimizer.backward(losses)
        else:
            sum(losses.values()).backward()
        optimizer.step()
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steers_as_a_bare_optimizer(name: str) -> None:
    wrapped, bare = Net(), Net()
    optimizer = wrap(wrapped, "sum", inner_options={"momentum": 0.9})
    other = inner(bare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "lr_scheduler.step() before optimizer.step()"
        warnings.filterwarnings("ignore", message=".*epoch parameter.*")
        expected = run(bare, other, SCHEDULERS[name](other), range(STEPS))
        found = run(wrapped, optimizer, SCHEDULERS[name](optimizer), range(STEPS))
    assert found == expected
    assert len(set(found)) > 1, "the scheduler did nothing"
    assert_same(wrapped.parameters(), bare.parameters())


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")
def test_stays_attached_when_a_state_is_loaded(name: str) -> None:
    net = Net()
    optimizer = wrap(net, "sum", inner_options={"momentum": 0.9})
    scheduler = SCHEDULERS[name](optimizer)
    expected = run(net, optimizer, scheduler, range(STEPS))

    net = Net()
    optimizer = wrap(net, "sum", inner_options={"momentum": 0.9})
    scheduler = SCHEDULERS[name](optimizer)
    found = run(net, optimizer, scheduler, range(3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    found += run(net, optimizer, scheduler, range(3, STEPS))
    assert found == expected


def test_warns_as_torch_does_when_stepped_before_the_optimizer() -> None:
    optimizer = wrap(Net(), "sum")
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
        scheduler.step()


def test_scheduler_of_the_inner_optimizer_works_too() -> None:
    net = Net()
    optimizer = wrap(net, "sum")
    scheduler = lr_scheduler.StepLR(optimizer.optimizer, 1, gamma=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.backward(net.losses(batch()))
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)

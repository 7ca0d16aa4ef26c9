"""``torch.amp.GradScaler`` around the optimizer, with losses that the user scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import Net, assert_equal, assert_same, batch, grads, train, wrap
from torch import Tensor

from mtl_ops import MultiTaskOptimizer

INNER = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.AdamW, {}),
    (torch.optim.SGD, {"fused": True}),
    (torch.optim.AdamW, {"fused": True}),
]


def scaler(scale: float = 1024.0, **options: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, **options)


def scaled_losses(
    net: Net, scale: torch.amp.GradScaler, step: int = 0, **factors: float
) -> dict[str, Tensor]:
    return {
        name: scale.scale(loss) * factors.get(name, 1.0)
        for name, loss in net.losses(batch(step)).items()
    }


@pytest.fixture(params=INNER, ids=lambda case: f"{case[0].__name__}{case[1]}")
def wrapped(request: pytest.FixtureRequest) -> tuple[Net, MultiTaskOptimizer]:
    net = Net()
    inner, options = request.param
    return net, wrap(net, "mean", inner, inner_options=options)


def test_equals_training_without(
    wrapped: tuple[Net, MultiTaskOptimizer], request: pytest.FixtureRequest
) -> None:
    net, optimizer = wrapped
    plain = Net()
    other = wrap(plain, "mean", type(optimizer.optimizer), inner_options=fused(optimizer))
    scale = scaler(growth_interval=3)
    for step in range(8):
        optimizer.zero_grad()
        optimizer.backward(scaled_losses(net, scale, step))
        scale.step(optimizer)
        scale.update()
    train(plain, other, range(8))
    assert_same(net.parameters(), plain.parameters())
    assert scale.get_scale() == 4096.0


def fused(optimizer: MultiTaskOptimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    return {name: group[name] for name in ("momentum", "fused") if group.get(name)}


@pytest.mark.parametrize("broken", [["a"], ["a", "b", "c"]], ids=str)
def test_inf_skips_the_step_and_lowers_the_scale(
    wrapped: tuple[Net, MultiTaskOptimizer], broken: list[str]
) -> None:
    net, optimizer = wrapped
    optimizer = MultiTaskOptimizer(optimizer.optimizer, "mean", nonfinite="propagate")
    before = [param.clone() for param in net.parameters()]
    scale = scaler()
    optimizer.backward(scaled_losses(net, scale, **dict.fromkeys(broken, torch.inf)))
    assert scale.step(optimizer) is None
    scale.update()
    assert_equal(net.parameters(), before)
    assert scale.get_scale() == 512.0
    optimizer.zero_grad()
    optimizer.backward(scaled_losses(net, scale))
    scale.step(optimizer)
    scale.update()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(param.isfinite().all() for param in net.parameters())


@pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step"])
def test_inf_in_all_tasks_is_seen_by_the_scaler(
    wrapped: tuple[Net, MultiTaskOptimizer], nonfinite: Any
) -> None:
    net, optimizer = wrapped
    optimizer = MultiTaskOptimizer(optimizer.optimizer, "mean", nonfinite=nonfinite)
    before = [param.clone() for param in net.parameters()]
    scale = scaler()
    optimizer.backward(scaled_losses(net, scale, a=torch.inf, b=torch.inf, c=torch.inf))
    scale.step(optimizer)
    scale.update()
    assert scale.get_scale() == 512.0
    assert_equal(net.parameters(), before)


def test_inf_in_one_task_is_left_out_and_the_step_taken(
    wrapped: tuple[Net, MultiTaskOptimizer],
) -> None:
    net, optimizer = wrapped
    before = net.trunk[0].weight.clone()
    scale = scaler()
    optimizer.backward(scaled_losses(net, scale, a=torch.inf))
    scale.step(optimizer)
    scale.update()
    assert scale.get_scale() == 1024.0
    assert not torch.equal(before, net.trunk[0].weight)
    assert all(param.isfinite().all() for param in net.parameters())


def test_unscale_then_clip(wrapped: tuple[Net, MultiTaskOptimizer]) -> None:
    net, optimizer = wrapped
    scale = scaler()
    optimizer.backward(scaled_losses(net, scale))
    scale.unscale_(optimizer)
    plain = Net()
    wrap(plain, "mean").backward(plain.losses(batch()))
    assert_same(grads(net), grads(plain))
    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    before = net.trunk[0].weight.clone()
    scale.step(optimizer)
    scale.update()
    assert not torch.equal(before, net.trunk[0].weight)


def test_leaves_no_trace_on_the_optimizer() -> None:
    net = Net()
    optimizer = wrap(net, inner_options={"fused": True})
    scale = scaler()
    optimizer.backward(scaled_losses(net, scale))
    scale.step(optimizer)
    scale.update()
    for name in ("grad_scale", "found_inf"):
        assert not hasattr(optimizer, name)
        assert not hasattr(optimizer.optimizer, name)


def test_scaler_without_effect() -> None:
    net, plain = Net(), Net()
    scale = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = wrap(net)
    optimizer.backward(scaled_losses(net, scale))
    scale.step(optimizer)
    scale.update()
    train(plain, wrap(plain), range(1))
    assert_same(net.parameters(), plain.parameters())

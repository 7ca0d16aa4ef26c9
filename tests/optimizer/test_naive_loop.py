"""Fifty steps equal those of a loop that computes everything in the plainest way."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import naive
import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, wrap
from torch import Tensor

import mtl_ops
from mtl_ops.methods import Method

STEPS = 50


def orders(step: int) -> Tensor:
    """A permutation of the tasks for each task, other ones in every step."""
    generator = torch.Generator().manual_seed(step)
    return torch.stack([torch.randperm(3, generator=generator) for _ in range(3)])


def both(
    method: str | Method,
    rule: Callable[[int], naive.Rule],
    inner: type[torch.optim.Optimizer] = torch.optim.SGD,
    inner_options: dict[str, Any] | None = None,
    given: Callable[[int], dict[str, Any]] = lambda step: {},
    absent: Callable[[int], set[str]] = lambda step: set(),
    steps: int = STEPS,
    **options: Any,
) -> None:
    """Trains one network with the optimizer and another with the naive loop; both end the same."""
    inner_options = {"lr": 0.03, **(inner_options or {})}
    fused, plain = Net(), Net()
    optimizer = wrap(
        fused, method, inner, **inner_options_of(inner_options), tasks=NAMES, **options
    )
    params = list(plain.parameters())
    bare = inner(params, **inner_options)
    start = [param.detach().clone() for param in params]
    for step in range(steps):
        data = batch(step)
        optimizer.zero_grad()
        losses = fused.losses(data)
        optimizer.backward(
            {k: v for k, v in losses.items() if k not in absent(step)}, **given(step)
        )
        optimizer.step()

        bare.zero_grad()
        left = {k: None if k in absent(step) else v for k, v in plain.losses(data).items()}
        merged = naive.merged_gradients(
            list(left.values()), params, rule(step), **naive_options(options, plain, step)
        )
        for param, gradient in zip(params, merged, strict=True):
            param.grad = gradient
        bare.step()
    assert_same(fused.parameters(), plain.parameters(), rtol=1e-6, atol=1e-9)
    moved = [(a - b).norm() for a, b in zip(start, params, strict=True)]
    assert all(distance > 1e-3 for distance in moved), moved


def inner_options_of(options: dict[str, Any]) -> dict[str, Any]:
    rest = dict(options)
    return {"lr": rest.pop("lr"), "inner_options": rest}


def naive_options(options: dict[str, Any], net: Net, step: int) -> dict[str, Any]:
    """What the optimizer's options mean to the naive loop."""
    given = dict(options)
    count = len(list(net.parameters()))
    granularity = given.pop("granularity", None)
    if granularity == "tensor":
        given["sets"] = list(range(count))
    weights = given.get("task_weights")
    if callable(weights):
        given["task_weights"] = weights(step)
    if isinstance(given.get("task_weights"), dict):
        given["task_weights"] = [given["task_weights"].get(name, 1.0) for name in NAMES]
    return given


RULES: dict[str, tuple[dict[str, Any], Callable[[int], naive.Rule], Callable[[int], Any]]] = {
    "sum": ({}, lambda step: naive.summed, lambda step: {}),
    "mean": ({}, lambda step: naive.mean, lambda step: {}),
    "pcgrad": (
        {},
        lambda step: naive.pcgrad(orders(step).tolist()),
        lambda step: {"orders": orders(step)},
    ),
    "mgda": ({}, lambda step: naive.mgda, lambda step: {}),
    "upgrad": ({"reg_eps": 1e-13}, lambda step: naive.upgrad, lambda step: {}),
}


@pytest.mark.parametrize("inner", [torch.optim.SGD, torch.optim.AdamW], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", RULES)
def test_methods(name: str, inner: type[torch.optim.Optimizer]) -> None:
    params, rule, given = RULES[name]
    both(mtl_ops.methods.get(name, **params), rule, inner, given=given)


def test_cagrad() -> None:
    # Two tasks of three, because the naive rule knows no more.
    both(
        mtl_ops.methods.get("cagrad", c=0.4),
        lambda step: naive.cagrad(0.4),
        absent=lambda step: {NAMES[step % 3]},
    )


@pytest.mark.parametrize(
    "inner",
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adadelta, {"lr": 1.0}),
        (torch.optim.Adamax, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.RAdam, {}),
        (torch.optim.ASGD, {}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Rprop, {}),
    ],
    ids=lambda case: case[0].__name__,
)
def test_inner_optimizers(inner: tuple[type[torch.optim.Optimizer], dict[str, Any]]) -> None:
    both("mean", lambda step: naive.mean, inner[0], inner[1])


@pytest.mark.parametrize(
    "options",
    [
        {"task_weights": {"a": 2.0, "c": 0.5}},
        {"task_weights": [0.5, 1.0, 2.0]},
        {"task_weights": lambda step: [1.0, 1.0 + step / 10, 1.0 if step % 2 else 0.0]},
        {"max_task_norm": 0.2},
        {"max_task_norm": 0.2, "task_weights": [1.0, 3.0, 0.5]},
        {"clip_value": 0.05},
        {"max_norm": 0.3},
        {"max_task_norm": 0.5, "clip_value": 0.1, "max_norm": 0.3, "task_weights": [2.0, 1.0, 0.5]},
        {"granularity": "tensor"},
        {"granularity": "tensor", "max_norm": 0.3, "max_task_norm": 0.5},
    ],
    ids=lambda options: re.sub(" at 0x[0-9a-f]+", "", str(options)),  # the same in every process
)
@pytest.mark.parametrize("name", ["mean", "upgrad"])
def test_options(name: str, options: dict[str, Any]) -> None:
    params, rule, given = RULES[name]
    both(mtl_ops.methods.get(name, **params), rule, given=given, steps=20, **options)


def test_absent_tasks() -> None:
    both(
        "mean",
        lambda step: naive.mean,
        absent=lambda step: [set(), {"b"}, {"a", "c"}, {"c"}][step % 4],
        max_norm=0.5,
    )

"""Auto-Lambda, against autograd through the virtual step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from resuming import assert_forgets, assert_resumes
from scalarised import assert_needs_losses
from torch import Tensor

import mtl_ops
from mtl_ops.methods import AutoLambda

RATE = 0.3


def validation_losses(theta: Tensor) -> Tensor:
    return torch.stack([theta.cos().sum(), (theta.square().sum() - 1) ** 2])


def training_losses(theta: Tensor) -> Tensor:
    return torch.stack([theta.sin().sum(), theta.pow(4).sum(), theta.prod()])


def start(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()


def products(theta: Tensor, weights: Tensor) -> Tensor:
    """X of the losses above, one step of their weighted sum further on."""
    (slope,) = torch.autograd.grad(training_losses(theta) @ weights, theta)
    ahead = (theta - RATE * slope).detach().requires_grad_()
    return mtl_ops.cross_gram(training_losses(theta), validation_losses(ahead), [theta], [ahead])


def hypergradient(theta: Tensor, weights: Tensor, primary: Tensor) -> Tensor:
    """By the weights, through the step."""
    leaf = weights.clone().requires_grad_()
    (slope,) = torch.autograd.grad(training_losses(theta) @ leaf, theta, create_graph=True)
    loss = validation_losses(theta - RATE * slope) @ primary
    return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("primary", [None, [2.0, 0.5]])
def test_steps_along_the_hypergradient(primary: list[float] | None) -> None:
    method = AutoLambda(inner_lr=RATE, lr=0.05, primary=primary)
    lambdas = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([lambdas], lr=0.05)
    wanted = torch.tensor(primary or [1.0, 1.0], dtype=torch.float64)
    for seed in range(10):
        theta, now = start(seed), lambdas.detach().clone()
        found = products(theta, now)
        lambdas.grad = hypergradient(theta, now, wanted)
        torch.testing.assert_close(-RATE * found @ wanted, lambdas.grad, rtol=1e-12, atol=1e-12)
        adam.step()
        weights = method.weights(None, torch.ones(3), cross_gram=found)
        torch.testing.assert_close(weights, lambdas.detach(), rtol=1e-12, atol=1e-13)


def test_softmax() -> None:
    method = AutoLambda(inner_lr=RATE, lr=0.05, softmax=True)
    logits = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.05)
    for seed in range(10):
        theta = start(seed)
        found = products(theta, logits.detach().softmax(dim=0))
        shares = logits.softmax(dim=0)
        (logits.grad,) = torch.autograd.grad(shares, logits, -RATE * found.sum(dim=1))
        adam.step()
        weights = method.weights(None, torch.ones(3), cross_gram=found)
        torch.testing.assert_close(weights, logits.detach().softmax(dim=0), rtol=1e-12, atol=1e-13)


def test_absent_tasks_and_products_that_are_not_finite() -> None:
    method, others = AutoLambda(inner_lr=1.0, lr=0.1), AutoLambda(inner_lr=1.0, lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        found = torch.randn(3, 2, generator=generator)
        found[1] = torch.nan
        losses = torch.tensor([1.0, torch.nan, 1.0])
        weights = method.weights(None, losses, cross_gram=found)
        expected = others.weights(None, torch.ones(2), cross_gram=found[[0, 2]])
        torch.testing.assert_close(weights[[0, 2]], expected)
        assert weights[1] == 0.0
    assert method.lambdas is not None
    assert method.lambdas[1] == 0.1
    before = others.weights(None, torch.ones(2), cross_gram=torch.zeros(2, 1) * torch.nan)
    torch.testing.assert_close(before, expected)


def given(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"cross_gram": torch.randn(3, 2, generator=generator)}


def test_resumes() -> None:
    assert_resumes(lambda: AutoLambda(inner_lr=0.1, lr=0.01), given)
    assert_resumes(lambda: AutoLambda(inner_lr=0.1, lr=0.01, softmax=True), given)


def test_forgets() -> None:
    assert_forgets(lambda: AutoLambda(inner_lr=0.1, lr=0.01), given)


def test_validation() -> None:
    assert_needs_losses(AutoLambda(inner_lr=0.1))
    for name in ("inner_lr", "lr"):
        with pytest.raises(ValueError, match=f"`{name}` should be positive"):
            AutoLambda(**{"inner_lr": 0.1, name: 0.0})
    method = AutoLambda(inner_lr=0.1, primary=[1.0])
    with pytest.raises(TypeError, match=r"`cross_gram` should be a tensor\. Found NoneType"):
        method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match=r"`cross_gram` should have shape \(2, V\)"):
        method.weights(None, torch.ones(2), cross_gram=torch.ones(3, 1))
    with pytest.raises(ValueError, match="one number for each of 2 tasks"):
        method.weights(None, torch.ones(2), cross_gram=torch.ones(2, 2))

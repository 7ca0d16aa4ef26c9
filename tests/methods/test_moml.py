"""MOML with one inner step, against autograd through that step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from resuming import assert_forgets, assert_resumes
from torch import Tensor

import mtl_ops
from mtl_ops.methods import MOML

RATE = 0.3


def training_losses(theta: Tensor) -> Tensor:
    return torch.stack([theta.sin().sum(), theta.pow(4).sum(), theta.prod()])


def validation_losses(theta: Tensor) -> Tensor:
    return torch.stack([theta.cos().sum(), (theta.square().sum() - 1) ** 2])


def start(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, generator=generator, dtype=torch.float64).requires_grad_()


def rows(theta: Tensor, logits: Tensor) -> Tensor:
    """The gradient of each validation loss after the step by the logits."""
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        training_losses(theta) @ leaf.softmax(dim=0), theta, create_graph=True
    )
    losses = validation_losses(theta - RATE * slope)
    return torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses])


def nearest_of_two(matrix: Tensor) -> Tensor:
    """The shortest vector between two rows."""
    one, two = matrix
    share = ((two - one) @ two / (two - one).square().sum()).clamp(0.0, 1.0)
    return share * one + (1 - share) * two


def test_steps_along_the_min_norm_point_of_the_hypergradients() -> None:
    method = MOML(inner_lr=RATE, lr=0.05)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.05)
    for seed in range(10):
        theta, now = start(seed), logits.detach().clone()
        shares = now.softmax(dim=0)
        (slope,) = torch.autograd.grad(training_losses(theta) @ shares, theta)
        ahead = (theta - RATE * slope).detach().requires_grad_()
        found = mtl_ops.cross_gram(
            training_losses(theta), validation_losses(ahead), [theta], [ahead]
        )
        exact = rows(theta, now)
        logits.grad = nearest_of_two(exact / exact.norm(dim=1, keepdim=True))
        adam.step()
        weights = method.weights(None, torch.ones(3), cross_gram=found)
        torch.testing.assert_close(weights, logits.detach().softmax(dim=0), rtol=1e-9, atol=1e-10)


def test_simplex_and_absent_tasks() -> None:
    method, others = MOML(inner_lr=1.0, lr=0.3), MOML(inner_lr=1.0, lr=0.3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        found = torch.randn(3, 4, generator=generator)
        losses = torch.tensor([1.0, torch.nan, 1.0])
        weights = method.weights(None, losses, cross_gram=found)
        expected = others.weights(None, torch.ones(2), cross_gram=found[[0, 2]])
        torch.testing.assert_close(weights[[0, 2]], expected)
        assert weights[1] == 0.0
        assert weights.sum().item() == pytest.approx(1.0)
        assert (weights[[0, 2]] > 0).all()


@pytest.mark.parametrize("row", [[1.0, 1.0], [torch.nan, 1.0]])
def test_what_leaves_the_logits_alone(row: list[float]) -> None:
    """A validation loss that all tasks change alike, and one that is not finite."""
    method = MOML(inner_lr=1.0, lr=0.3)
    first = method.weights(None, torch.ones(2), cross_gram=torch.tensor([[1.0], [2.0]]))
    found = torch.tensor([[row[0], 3.0], [row[1], 1.0]])
    torch.testing.assert_close(method.weights(None, torch.ones(2), cross_gram=found), first)


def given(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {"cross_gram": torch.randn(3, 2, generator=generator)}


def test_resumes_and_forgets() -> None:
    assert_resumes(lambda: MOML(inner_lr=0.1, lr=0.1), given)
    assert_forgets(lambda: MOML(inner_lr=0.1, lr=0.1), given)


def test_validation() -> None:
    with pytest.raises(ValueError, match="`inner_lr` should be positive"):
        MOML(inner_lr=0.0)
    with pytest.raises(ValueError, match="`lr` should be positive"):
        MOML(inner_lr=0.1, lr=-1.0)
    with pytest.raises(TypeError, match="`cross_gram` should be a tensor"):
        MOML(inner_lr=0.1).weights(None, torch.ones(2))

"""FAMO."""

from __future__ import annotations

import itertools

import pytest
import torch
from multitask import Net, batch, wrap
from resuming import assert_forgets, assert_resumes
from scalarised import assert_derivative, assert_needs_losses, derivative, some_losses
from torch import Tensor

from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import FAMO


def drawn(tasks: int, steps: int, seed: int = 0) -> Tensor:
    """Losses of some steps, before and after each."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(steps, 2, tasks, generator=generator, dtype=torch.float64) + 0.1


def scalar(losses: Tensor, logits: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """The paper's loss, whose normalisation is held fixed."""
    z, over = logits.softmax(dim=0), losses - least + 1e-8
    return (z * over.log()).sum() / (z / over).sum().detach()


def test_is_the_derivative() -> None:
    for losses in some_losses():
        method = FAMO()
        logits = torch.linspace(-1, 2, len(losses), dtype=torch.float64)
        method.logits = logits
        weights = method.weights(None, losses)
        assert_derivative(weights, lambda x, s=logits: scalar(x, s), losses)
        torch.testing.assert_close(weights.sum(), torch.ones_like(weights[0]))


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_takes_the_steps_of_adam(tasks: int, weight_decay: float) -> None:
    method = FAMO(lr=0.1, weight_decay=weight_decay)
    logits = torch.zeros(tasks, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=0.1, weight_decay=weight_decay)
    for before, after in drawn(tasks, 25):
        expected = derivative(lambda x: scalar(x, logits.detach()), before)
        torch.testing.assert_close(method.weights(None, before), expected)
        method.observe(after)
        delta = (before + 1e-8).log() - (after + 1e-8).log()
        (logits.grad,) = torch.autograd.grad(logits.softmax(dim=0), logits, delta)
        adam.step()
        assert method.logits is not None
        torch.testing.assert_close(method.logits, logits.detach(), rtol=1e-12, atol=1e-13)


def test_agrees_with_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    least = torch.tensor([0.05, 0.0, -1.0], dtype=torch.float64)
    peer = scalarization.FAMO(3, least).double()
    method = FAMO(min_losses=least)
    for before, after in drawn(3, 25):
        torch.testing.assert_close(
            method.weights(None, before), derivative(peer, before), rtol=1e-10, atol=1e-12
        )
        method.observe(after)
        peer.update(after)


def test_without_observe_the_next_losses_serve() -> None:
    losses = drawn(3, 6)[:, 0]
    told, untold = FAMO(), FAMO()
    for now, later in itertools.pairwise(losses):
        torch.testing.assert_close(told.weights(None, now), untold.weights(None, now))
        told.observe(later)
    torch.testing.assert_close(told.weights(None, losses[-1]), untold.weights(None, losses[-1]))


def test_observe_follows_a_backward() -> None:
    method = FAMO()
    with pytest.raises(ValueError, match="should follow a backward"):
        method.observe(torch.ones(2))
    method.weights(None, torch.ones(2))
    method.observe(torch.ones(2))
    with pytest.raises(ValueError, match="should follow a backward"):
        method.observe(torch.ones(2))


def test_absent_tasks_stay() -> None:
    method = FAMO(lr=0.1)
    others = FAMO(lr=0.1)
    kept = [0, 2]
    for step, (before, after) in enumerate(drawn(3, 8)):
        before[1] = torch.nan
        if step % 2:
            after[1] = torch.inf
        weights = method.weights(None, before)
        assert weights[1] == 0.0
        torch.testing.assert_close(weights[kept], others.weights(None, before[kept]))
        method.observe(after)
        others.observe(after[kept])
    assert method.logits is not None
    assert others.logits is not None
    assert method.logits[1] == 0.0
    torch.testing.assert_close(method.logits[kept], others.logits)
    assert method.adam is not None
    assert method.adam[:, 1].tolist() == [0.0] * 3


def test_losses_at_or_below_the_least() -> None:
    method = FAMO(min_losses=[0.5, 0.0])
    assert method.weights(None, torch.tensor([0.4, 1.0])).isnan().all()
    method.observe(torch.tensor([0.6, 0.5]))
    assert method.logits is not None
    assert method.logits.tolist() == [0.0, 0.0]
    assert method.weights(None, torch.tensor([0.6, 1.0])).isfinite().all()
    method.observe(torch.tensor([0.4, 0.5]))
    assert method.logits.tolist() == [0.0, 0.0]


def test_takes_weight_from_what_has_improved() -> None:
    method = FAMO()
    method.weights(None, torch.tensor([1.0, 1.0]))
    method.observe(torch.tensor([0.5, 1.0]))
    weights = method.weights(None, torch.tensor([1.0, 1.0]))
    assert weights[0] < 0.5 < weights[1]


def look_again(net: Net, optimizer: MultiTaskOptimizer, step: int) -> None:
    with torch.no_grad():
        optimizer.observe(net.losses(batch(step, like=net)))


def test_resumes() -> None:
    assert_resumes(FAMO, after=look_again)
    assert_resumes(FAMO)


def test_forgets() -> None:
    assert_forgets(FAMO, after=look_again)


def test_observe_through_the_optimizer() -> None:
    net = Net()
    optimizer = wrap(net, "famo")
    optimizer.backward(net.losses(batch()))
    optimizer.step()
    with pytest.raises(ValueError, match="should hold only the tasks"):
        optimizer.observe({"d": torch.ones(())})
    with pytest.raises(ValueError, match="should hold 3 losses"):
        optimizer.observe([torch.ones(())] * 3 + [None])
    look_again(net, optimizer, 0)
    assert isinstance(optimizer.method, FAMO)
    assert optimizer.method.state_dict()["before"] is None
    assert optimizer.method.adam is not None
    other = wrap(Net(), "sum")
    with pytest.raises(TypeError, match="has no use for losses after the step"):
        other.observe([torch.ones(())])


def test_validation() -> None:
    assert_needs_losses(FAMO())
    with pytest.raises(ValueError, match="`lr` should be positive"):
        FAMO(lr=0.0)
    with pytest.raises(ValueError, match="`weight_decay` should not be negative"):
        FAMO(weight_decay=-1.0)
    with pytest.raises(ValueError, match="one number for each of 3 tasks"):
        FAMO(min_losses=[0.0]).weights(None, torch.ones(3))

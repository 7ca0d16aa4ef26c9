"""Dynamic weight average."""

from __future__ import annotations

import pytest
import torch
from multitask import Net, wrap
from resuming import assert_forgets, assert_resumes
from scalarised import assert_needs_losses
from torch import Tensor

from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import DWA


def some_epochs(epochs: int, length: int, tasks: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(epochs, length, tasks, generator=generator, dtype=torch.float64) + 0.1


def by_the_formula(epochs: Tensor, temperature: float) -> list[Tensor]:
    """The weights of each epoch, from all of its predecessors."""
    means = epochs.mean(dim=1)
    weights = [torch.ones_like(means[0])] * 2
    for epoch in range(2, len(epochs)):
        scores = (means[epoch - 1] / means[epoch - 2] / temperature).exp()
        weights.append(len(scores) * scores / scores.sum())
    return weights


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("tasks", [1, 4])
def test_formula(temperature: float, tasks: int) -> None:
    epochs = some_epochs(5, 7, tasks)
    method = DWA(temperature=temperature)
    for losses, expected in zip(epochs, by_the_formula(epochs, temperature), strict=True):
        for step in losses:
            torch.testing.assert_close(method.weights(None, step), expected)
        method.end_epoch()


def test_window_is_an_epoch_of_so_many_calls() -> None:
    epochs = some_epochs(4, 6, 3)
    method = DWA(window=6)
    for losses, expected in zip(epochs, by_the_formula(epochs, 2.0), strict=True):
        for step in losses:
            torch.testing.assert_close(method.weights(None, step), expected)


def test_agrees_with_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    peer, method = scalarization.DWA(temperature=1.5), DWA(temperature=1.5)
    for losses in some_epochs(5, 3, 4):
        for step in losses:
            leaf = step.clone().requires_grad_()
            (expected,) = torch.autograd.grad(peer(leaf), leaf)
            torch.testing.assert_close(method.weights(None, step), expected, rtol=1e-12, atol=0.0)
        peer.step()
        method.end_epoch()


def test_given_means_leave_the_memory_alone() -> None:
    method = DWA()
    previous = torch.tensor([[1.0, 2.0], [0.5, 2.0]], dtype=torch.float64)
    weights = method.weights(None, torch.ones(2), previous=previous)
    expected = 2 * torch.tensor([0.25, 0.5], dtype=torch.float64).softmax(dim=0)
    torch.testing.assert_close(weights, expected)
    assert method.means is None
    assert method.calls is None
    with pytest.raises(ValueError, match=r"shape \(2, 2\)\. Found shape \(2, 3\)"):
        method.weights(None, torch.ones(2), previous=torch.ones(2, 3))


def test_absent_tasks() -> None:
    previous = torch.tensor([[1.0, 5.0, 2.0], [0.5, 1.0, 2.0]])
    weights = DWA().weights(None, torch.tensor([1.0, torch.nan, 1.0]), previous=previous)
    two = DWA().weights(None, torch.ones(2), previous=previous[:, [0, 2]])
    torch.testing.assert_close(weights[[0, 2]], two)
    method = DWA()
    for losses in ([1.0, 2.0], [3.0, torch.nan]):  # means 2 and 2
        method.weights(None, torch.tensor(losses))
    method.end_epoch()
    method.weights(None, torch.tensor([1.0, torch.nan]))  # means 1 and, for want of others, 2
    method.end_epoch()
    expected = 2 * torch.tensor([0.25, 0.5], dtype=torch.float64).softmax(dim=0)
    torch.testing.assert_close(method.weights(None, torch.ones(2)), expected)


def test_a_task_that_never_came_counts_as_unchanged() -> None:
    method = DWA()
    for loss in (1.0, 0.5):
        method.weights(None, torch.tensor([loss, torch.nan]))
        method.end_epoch()
    expected = 2 * torch.tensor([0.25, 0.5], dtype=torch.float64).softmax(dim=0)
    torch.testing.assert_close(method.weights(None, torch.ones(2)), expected)


def test_a_mean_of_zero_is_no_measure() -> None:
    previous = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert DWA().weights(None, torch.ones(2), previous=previous).isnan().all()


def test_end_epoch_without_a_step_is_no_epoch() -> None:
    method = DWA()
    method.end_epoch()
    assert method.means is None


def test_validation() -> None:
    assert_needs_losses(DWA())
    with pytest.raises(ValueError, match="`temperature` should be positive"):
        DWA(temperature=0.0)
    with pytest.raises(ValueError, match="`window` should be at least 1"):
        DWA(window=0)
    method = DWA()
    method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match="same tasks and segments every time"):
        method.weights(None, torch.ones(3))


def end_epochs(net: Net, optimizer: MultiTaskOptimizer, step: int) -> None:
    assert isinstance(optimizer.method, DWA)
    if step % 2:
        optimizer.method.end_epoch()


def test_resumes() -> None:
    assert_resumes(DWA, after=end_epochs)
    assert_resumes(lambda: DWA(window=2))


def test_forgets() -> None:
    assert_forgets(DWA, after=end_epochs)


def test_optimizer_takes_it_by_name() -> None:
    net = Net()
    optimizer = wrap(net, "dwa")
    assert isinstance(optimizer.method, DWA)
    assert optimizer.method.temperature == 2.0

"""``step(closure)``: evaluated as often as the inner optimizer asks, and no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from multitask import Net, assert_equal, assert_same, batch, train, wrap
from torch import Tensor
from torch.optim import Optimizer

from mtl_ops import MultiTaskOptimizer


def closure_of(
    net: Net, optimizer: Optimizer, step: int, calls: list[float]
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = net.losses(batch(step))
        total = sum(losses.values())
        if isinstance(optimizer, MultiTaskOptimizer):
            optimizer.backward(losses)
        else:
            total.backward()
        calls.append(total.item())
        return total

    return closure


LBFGS = {"max_iter": 5, "history_size": 4}


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_equals_the_bare_one(search: str | None) -> None:
    options = {**LBFGS, "line_search_fn": search}
    wrapped, bare = Net(), Net()
    optimizer = wrap(wrapped, "sum", torch.optim.LBFGS, lr=0.3, inner_options=options)
    other = torch.optim.LBFGS(bare.parameters(), lr=0.3, **options)
    calls: list[float] = []
    expected_calls: list[float] = []
    for _ in range(3):
        found = optimizer.step(closure_of(wrapped, optimizer, 0, calls))
        expected = other.step(closure_of(bare, other, 0, expected_calls))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert len(calls) == len(expected_calls) > 9
    assert calls == pytest.approx(expected_calls, rel=1e-6)
    assert_same(wrapped.parameters(), bare.parameters(), rtol=1e-5, atol=1e-8)


def test_lbfgs_descends_with_a_merged_gradient() -> None:
    net = Net()
    optimizer = wrap(net, "mean", torch.optim.LBFGS, lr=0.3, inner_options=LBFGS)
    calls: list[float] = []
    for _ in range(5):
        optimizer.step(closure_of(net, optimizer, 0, calls))
    assert calls[-1] < 0.5 * calls[0]


def test_first_order_optimizer_evaluates_once_and_returns_the_loss() -> None:
    wrapped, plain = Net(), Net()
    optimizer, other = wrap(wrapped), wrap(plain)
    calls: list[float] = []
    for step in range(3):
        total = optimizer.step(closure_of(wrapped, optimizer, step, calls))
        assert total.item() == calls[-1]
    assert len(calls) == 3
    train(plain, other, range(3))
    assert_equal(wrapped.parameters(), plain.parameters())


def test_without_closure_returns_what_the_inner_optimizer_returns() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.backward(net.losses(batch()))
    assert optimizer.step() is None


def test_closure_by_keyword_and_under_no_grad() -> None:
    net = Net()
    optimizer = wrap(net)
    before = net.trunk[0].weight.clone()
    calls: list[float] = []
    with torch.no_grad():
        optimizer.step(closure=closure_of(net, optimizer, 0, calls))
    assert not torch.equal(net.trunk[0].weight, before)


def test_closure_whose_gradients_are_lost_takes_no_step() -> None:
    net = Net()
    optimizer = wrap(net, inner_options={"momentum": 0.9})
    before = [param.clone() for param in net.parameters()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = {name: loss * torch.nan for name, loss in net.losses(batch()).items()}
        optimizer.backward(losses)
        return sum(losses.values())

    assert torch.isnan(optimizer.step(closure))
    assert_equal(net.parameters(), before)
    assert not optimizer.state


def test_error_in_a_closure_goes_through_and_nothing_moves() -> None:
    net = Net()
    optimizer = wrap(net)
    before = [param.clone() for param in net.parameters()]
    with pytest.raises(ValueError, match="Parameter `losses`"):
        optimizer.step(lambda: optimizer.backward([]))
    assert_equal(net.parameters(), before)

"""ReLoBRaLo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import Net, batch, wrap
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from scalarised import assert_needs_losses, some_losses
from torch import Tensor

import mtl_ops
from mtl_ops.methods import ReLoBRaLo


def fallen(tasks: int, calls: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(calls, tasks, generator=generator, dtype=torch.float64)
    return (0.1 + steps) * 10.0 ** torch.linspace(-9, 3, tasks, dtype=torch.float64)


@pytest.mark.parametrize(("alpha", "tau"), [(0.999, 1.0), (0.5, 0.1), (0.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize("tasks", [1, 3, 64])
def test_formula(tasks: int, alpha: float, tau: float) -> None:
    method, losses = ReLoBRaLo(alpha=alpha, temperature=tau), fallen(tasks, 8)
    w = torch.ones(tasks, dtype=torch.float64)
    for call, now in enumerate(losses):
        keep = int(call % 3 != 0)
        if call > 0:
            first, last = (
                tasks * torch.softmax(now / (tau * losses[s]), dim=0) for s in (0, call - 1)
            )
            w = alpha * (keep * w + (1 - keep) * first) + (1 - alpha) * last
        found = method.weights(None, now, keep=keep)
        torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-300)
        assert (found >= 0).all()
        assert float(found.sum()) == pytest.approx(tasks)


def test_units_of_losses_do_not_matter() -> None:
    factors = torch.tensor([1e-9, 1.0, 1e12], dtype=torch.float64)
    one, other = ReLoBRaLo(alpha=0.5), ReLoBRaLo(alpha=0.5)
    for call, now in enumerate(fallen(3, 6)):
        w, v = (
            one.weights(None, now, keep=call % 2),
            other.weights(None, factors * now, keep=call % 2),
        )
        torch.testing.assert_close(w, v)


def test_draws_with_probability_rho() -> None:
    generator = torch.Generator().manual_seed(0)
    looked_back = 0
    for _ in range(200):
        method = ReLoBRaLo(alpha=1.0, rho=0.8)
        method.generator = generator
        method.weights(None, torch.tensor([1.0, 1.0]))
        w = method.weights(None, torch.tensor([1.0, 0.5]))
        looked_back += bool(w[0] != w[1])  # b(0) differs from w = 1
    assert 20 <= looked_back <= 60
    for rho, wanted in ((0.0, True), (1.0, False)):
        method = ReLoBRaLo(alpha=1.0, rho=rho)
        method.weights(None, torch.tensor([1.0, 1.0]))
        w = method.weights(None, torch.tensor([1.0, 0.5]))
        assert bool(w[0] != w[1]) == wanted


class TestAbsentTasks:
    def test_get_nothing_and_keep_their_memory(self) -> None:
        method, two = ReLoBRaLo(alpha=0.5), ReLoBRaLo(alpha=0.5)
        for losses in some_losses(5):
            now = losses[:1].repeat(3) * torch.tensor([1.0, torch.nan, 2.0])
            w = method.weights(None, now, keep=1)
            torch.testing.assert_close(w[::2], two.weights(None, now[::2], keep=1))
            assert w[1] == 0
        assert method.initial is not None
        assert method.initial[1].isnan()
        assert method.weights(None, torch.tensor([1.0, 5.0, 2.0]), keep=1)[1] == 1  # its first
        assert method.initial[1] == 5

    def test_infinite_losses_are_absent(self) -> None:
        assert ReLoBRaLo().weights(None, torch.tensor([torch.inf, 1.0])).tolist() == [0, 1]


class TestDegenerate:
    def test_relative_to_a_loss_of_zero_all_are_one(self) -> None:
        method = ReLoBRaLo(alpha=0.0)
        method.weights(None, torch.tensor([0.0, 1.0]))
        assert method.weights(None, torch.tensor([7.0, 1.0]), keep=1).tolist() == [1, 1]

    def test_negative_losses_are_nan_and_are_not_remembered(self) -> None:
        method = ReLoBRaLo(alpha=0.5)
        for now in fallen(3, 3):
            method.weights(None, now, keep=0)
        before = {name: value.clone() for name, value in method.state_dict().items()}
        w = method.weights(None, torch.tensor([1.0, -1.0, torch.nan]), keep=0)
        assert w[:2].isnan().all()
        assert w[2] == 0
        assert all(torch.equal(value, before[n]) for n, value in method.state_dict().items())

    def test_losses_that_exploded_do_not_overflow(self) -> None:
        method = ReLoBRaLo(alpha=0.0)
        method.weights(None, torch.tensor([1e-200, 1.0], dtype=torch.float64))
        w = method.weights(None, torch.tensor([1e100, 1.0], dtype=torch.float64), keep=1)
        assert w.tolist() == [2, 0]


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    method, other = ReLoBRaLo(alpha=0.5), ReLoBRaLo(alpha=0.5)
    assert method.state_dict() == {"balance": None, "initial": None, "previous": None}
    losses = fallen(3, 4)
    method.weights(None, losses[0])
    tensors = method.state_dict()
    method.weights(None, losses[1], keep=0)
    assert all(method.state_dict()[name] is tensor for name, tensor in tensors.items())
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    for now in losses[2:]:
        assert torch.equal(other.weights(None, now, keep=0), method.weights(None, now, keep=0))


def test_what_is_returned_is_no_memory() -> None:
    method = ReLoBRaLo()
    w = method.weights(None, torch.ones(2))
    w.zero_()
    assert method.weights(None, torch.ones(2)).tolist() == [1, 1]


def test_training_resumes_and_forgets() -> None:
    assert_resumes(lambda: ReLoBRaLo(alpha=0.5, rho=1.0))
    assert_forgets(lambda: ReLoBRaLo(alpha=0.5, rho=1.0))


def test_the_optimizer_draws_from_its_generator_and_hands_the_draw_on() -> None:
    found = []
    for _ in range(2):
        net = Net()
        optimizer = wrap(
            net, ReLoBRaLo(alpha=0.9, rho=0.5), generator=torch.Generator().manual_seed(3)
        )
        for step in range(6):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step)))
            optimizer.step()
        found.append(optimizer.report.weights)
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]
    optimizer.backward(net.losses(batch(7)), keep=1)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"alpha": 1.5}, ValueError, r"`alpha` should be in \[0, 1\]"),
        ({"rho": -0.1}, ValueError, r"`rho` should be in \[0, 1\]"),
        ({"temperature": 0.0}, ValueError, "`temperature` should be positive"),
        ({"rho": "1"}, TypeError, "`rho` should be a number"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("relobralo", **params)


def test_bad_arguments() -> None:
    assert_needs_losses(ReLoBRaLo())
    with pytest.raises(ValueError, match="`keep` should be one of 0, 1"):
        ReLoBRaLo().weights(None, torch.ones(2), keep=2)
    method = ReLoBRaLo()
    method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match="the same tasks"):
        method.weights(None, torch.ones(3))

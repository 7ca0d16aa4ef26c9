"""LDC-MTL; what holds for every method that learns numbers is in ``test_learnable.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, wrap
from resuming import assert_resumes, saved_and_loaded
from scalarised import assert_needs_losses, some_losses
from torch import Tensor
from torch.nn import Parameter

import mtl_ops
from mtl_ops.methods import LDCMTL

FORMS = ("none", "log")


def scalar(losses: Tensor, s: Tensor, lam: float, first: Tensor | None = None) -> Tensor:
    """The loss that stands in the docstring."""
    y = losses if first is None else (losses / first).log()
    v = s.sigmoid()
    gaps = (v * y).diff().abs().sum()
    return (v * y).sum() / v.sum().detach() + lam * gaps


def with_s(method: LDCMTL, s: Tensor) -> LDCMTL:
    (learned,) = method.learnable(len(s), s.device)
    with torch.no_grad():
        learned.copy_(s)
    return method


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lam", [0.0, 0.01, 0.7])
def test_are_derivatives(form: Any, lam: float) -> None:
    for losses in [*some_losses(), torch.linspace(0.1, 3.0, 64, dtype=torch.float64)]:
        first = losses.flip(0) * 1.3 + 0.1
        method = with_s(LDCMTL(lam=lam, normalise=form), torch.linspace(-3, 2, len(losses)))
        assert method.learned is not None
        s = method.learned.detach().double().requires_grad_()
        leaf = losses.clone().requires_grad_()
        given = None if form == "none" else first
        by_loss, by_s = torch.autograd.grad(scalar(leaf, s, lam, given), (leaf, s))
        w = method.weights(None, losses, initial_losses=first)
        torch.testing.assert_close(w, by_loss, rtol=1e-10, atol=1e-12 * float(by_loss.abs().max()))
        method.add_grads(losses)
        torch.testing.assert_close(method.learned.grad, by_s.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_positive_for_small_penalties(form: Any) -> None:
    for losses in some_losses():
        lam = 0.99 / (2 * len(losses))
        method = with_s(LDCMTL(lam=lam, normalise=form), torch.linspace(4, -4, len(losses)))
        assert (method.weights(None, losses) > 0).all()


def test_weights_without_a_penalty_sum_to_one() -> None:
    for losses in some_losses():
        w = with_s(LDCMTL(lam=0.0), torch.linspace(-1, 1, len(losses))).weights(None, losses)
        assert float(w.sum()) == pytest.approx(1)


def test_trains_as_autograd_does() -> None:
    ours, theirs = Net(), Net()
    optimizer = wrap(ours, LDCMTL(lam=0.1), torch.optim.Adam, lr=0.01, tasks=NAMES)
    s = Parameter(torch.ones(3))
    peer = torch.optim.Adam([*theirs.parameters(), s], lr=0.01)
    for step in range(20):
        optimizer.zero_grad()
        optimizer.backward(ours.losses(batch(step)))
        optimizer.step()
        peer.zero_grad()
        losses = torch.stack([x.squeeze() for x in theirs.losses(batch(step)).values()])
        scalar(losses, s.double(), 0.1).backward()
        peer.step()
    assert_same(ours.parameters(), theirs.parameters(), rtol=1e-5, atol=1e-7)
    assert isinstance(optimizer.method, LDCMTL)
    assert optimizer.method.learned is not None
    torch.testing.assert_close(optimizer.method.learned, s)


class TestAbsentTasks:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("place", [0, 2, 4])
    def test_are_left_out_of_the_chain(self, form: Any, place: int) -> None:
        losses = torch.tensor([3.0, 1.0, 2.0, 2.5, 0.3], dtype=torch.float64)
        s = torch.linspace(-1, 1, 5)
        others = torch.arange(5) != place
        part = torch.where(others, losses, torch.nan)
        method, fewer = (LDCMTL(lam=0.3, normalise=form) for _ in range(2))
        with_s(method, s)
        with_s(fewer, s[others])
        for factor in (1.0, 0.5):
            w = method.weights(None, factor * part)
            assert w[place] == 0
            torch.testing.assert_close(w[others], fewer.weights(None, factor * losses[others]))
        for one, now in ((method, part), (fewer, losses[others])):
            one.add_grads(0.5 * now)
        assert method.learned is not None
        assert method.learned.grad is not None
        assert method.learned.grad[place] == 0
        assert fewer.learned is not None
        torch.testing.assert_close(method.learned.grad[others], fewer.learned.grad)

    def test_begin_when_they_come(self) -> None:
        method = LDCMTL(normalise="log")
        method.weights(None, torch.tensor([1.0, torch.nan]))
        method.weights(None, torch.tensor([0.5, 3.0]))
        assert method.initial_losses is not None
        assert method.initial_losses.tolist() == [1.0, 3.0]


class TestDegenerate:
    def test_one_task(self) -> None:
        assert LDCMTL(lam=0.4).weights(None, torch.tensor([5.0])).tolist() == [1.0]

    def test_equal_losses_have_no_gap(self) -> None:
        w = LDCMTL(lam=0.4).weights(None, torch.ones(4))
        assert w.tolist() == pytest.approx([0.25] * 4)

    def test_weights_that_were_learned_away_are_still_shares(self) -> None:
        method = with_s(LDCMTL(lam=0.0), torch.tensor([-1e4, -1e4, -1e27]))
        assert method.weights(None, torch.tensor([1.0, 2.0, 1e30])).tolist() == [0.5, 0.5, 0.0]

    @pytest.mark.parametrize("loss", [0.0, -1.0])
    def test_a_logarithm_that_is_none_is_nan(self, loss: float) -> None:
        method = LDCMTL(normalise="log")
        bad = torch.tensor([1.0, loss, torch.nan])
        w = method.weights(None, bad)
        assert w[:2].isnan().all()
        assert w[2] == 0
        assert method.weights(None, torch.tensor([0.5, 2.0, 1.0])).isfinite().all()
        assert method.initial_losses is not None
        assert method.initial_losses.tolist() == [1.0, 2.0, 1.0]
        assert LDCMTL().weights(None, bad)[:2].isfinite().all()

    def test_the_step_is_lost_and_what_is_learned_stays(self) -> None:
        net = Net()
        optimizer = wrap(net, LDCMTL(normalise="log"), tasks=NAMES)
        losses = net.losses(batch())
        optimizer.backward({**losses, "b": losses["b"] - 100.0})
        optimizer.step()
        assert isinstance(optimizer.method, LDCMTL)
        assert optimizer.method.learned is not None
        assert optimizer.method.learned.tolist() == [1, 1, 1]
        assert all(param.isfinite().all() for param in net.parameters())


def test_initial_losses_that_are_handed_in_are_remembered() -> None:
    method, losses = LDCMTL(normalise="log"), torch.tensor([1.0, 2.0], dtype=torch.float64)
    method.weights(None, losses)
    w = method.weights(None, losses, initial_losses=torch.tensor([4.0, 2.0]))
    assert torch.equal(method.weights(None, losses), w)
    assert method.initial_losses is not None
    assert method.initial_losses.tolist() == [4.0, 2.0]


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    method, other = LDCMTL(normalise="log"), LDCMTL(normalise="log")
    assert method.state_dict() == {"learned": None, "initial_losses": None}
    method.weights(None, torch.tensor([1.0, torch.nan]))
    tensor = method.initial_losses
    method.weights(None, torch.tensor([0.5, 3.0]))
    assert method.initial_losses is tensor
    state = saved_and_loaded(with_s(method, torch.tensor([0.3, -0.2])).state_dict())
    other.load_state_dict(state)
    now = torch.tensor([0.1, 1.0])
    assert torch.equal(other.weights(None, now), method.weights(None, now))
    known = other.initial_losses
    other.load_state_dict(state)
    assert other.initial_losses is known
    other.reset()
    assert other.state_dict()["initial_losses"] is None
    assert other.learned is not None
    assert other.learned.tolist() == [1, 1]


@pytest.mark.parametrize("form", FORMS)
def test_training_resumes(form: Any) -> None:
    assert_resumes(lambda: LDCMTL(normalise=form), tasks=NAMES)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"lam": -1.0}, ValueError, "`lam` should not be negative"),
        ({"normalise": "l2"}, ValueError, "`normalise` should be one of 'none', 'log'"),
        ({"init": float("nan")}, ValueError, "`init` should be finite"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("ldc_mtl", **params)


def test_bad_arguments() -> None:
    assert_needs_losses(LDCMTL())
    method = LDCMTL()
    method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match=r"the 2 tasks whose weights it learns\. Found 3"):
        method.weights(None, torch.ones(3))

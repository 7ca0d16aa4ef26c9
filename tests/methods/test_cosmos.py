"""COSMOS."""

from __future__ import annotations

import pytest
import torch
from multitask import Net, batch, wrap
from scalarised import assert_derivative, assert_needs_losses, some_losses
from torch import Tensor

from mtl_ops.methods import COSMOS


def scalar(losses: Tensor, preference: Tensor, lam: float) -> Tensor:
    cosine = preference @ losses / preference.norm() / losses.norm()
    return preference @ losses - lam * cosine


@pytest.mark.parametrize("lam", [0.0, 0.01, 8.0])
def test_is_the_derivative(lam: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    for losses in some_losses():
        preference = losses.flip(0) / losses.sum()
        weights = COSMOS(preference=preference, lam=lam).weights(None, losses)
        assert_derivative(weights, lambda x, r=preference: scalar(x, r, lam), losses)
        assert_derivative(weights, scalarization.COSMOS(lam, preference), losses)
        if lam == 0.0:
            assert torch.equal(weights, preference)


def test_preference_of_each_call() -> None:
    losses, drawn = torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.7])
    fixed = COSMOS(preference=drawn, lam=0.5).weights(None, losses)
    method = COSMOS(preference=[1.0, 0.0], lam=0.5)
    assert torch.equal(method.weights(None, losses, preference=drawn), fixed)
    assert not torch.equal(method.weights(None, losses), fixed)
    with pytest.raises(ValueError, match=r"`preference` should have shape \(2,\)"):
        method.weights(None, losses, preference=torch.ones(3))


def test_preference_reaches_it_through_the_optimizer() -> None:
    net = Net()
    optimizer = wrap(net, COSMOS(preference=[1.0, 1.0, 1.0], lam=0.0))
    optimizer.backward(net.losses(batch()), preference=torch.tensor([0.5, 0.25, 0.0]))
    assert optimizer.report.weights is not None
    assert optimizer.report.weights.tolist() == [[0.5, 0.25, 0.0]]


def test_leaves_out() -> None:
    method = COSMOS(preference=[0.2, 0.3, 0.5], lam=2.0)
    weights = method.weights(None, torch.tensor([1.0, torch.inf, 3.0]))
    others = COSMOS(preference=[0.2, 0.5], lam=2.0).weights(None, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weights[[0, 2]], others)
    assert weights[1] == 0.0
    assert_needs_losses(method)
    one = torch.tensor([2.0], dtype=torch.float64)
    assert COSMOS(preference=[0.4], lam=2.0).weights(None, one).item() == pytest.approx(0.4)


def test_no_angle_without_losses() -> None:
    assert COSMOS(preference=[1.0, 1.0], lam=1.0).weights(None, torch.zeros(2)).isnan().all()


def test_validation() -> None:
    with pytest.raises(ValueError, match="`lam` should not be negative"):
        COSMOS(preference=[1.0], lam=-1.0)
    for bad in ([-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="`preference` should hold positive numbers and zeros"):
            COSMOS(preference=bad, lam=1.0)
    with pytest.raises(TypeError):
        COSMOS(lam=1.0)  # type: ignore[call-arg]

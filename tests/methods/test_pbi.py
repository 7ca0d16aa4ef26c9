"""Penalty-based boundary intersection."""

from __future__ import annotations

import pytest
import torch
from scalarised import assert_derivative, assert_needs_losses, some_losses
from torch import Tensor

from mtl_ops.methods import PBI


def scalar(losses: Tensor, preference: Tensor, theta: float, ideal: Tensor) -> Tensor:
    ray = preference / preference.norm()
    along = (losses - ideal) @ ray
    across = losses - ideal - along * ray
    return along + theta * (across @ across + 1e-12).sqrt()


@pytest.mark.parametrize("theta", [0.0, 0.1, 5.0])
def test_is_the_derivative(theta: float) -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    for losses in some_losses():
        preference, ideal = losses.flip(0) + 0.1 * losses.mean(), 0.2 * losses.flip(0)
        weights = PBI(weights=preference, theta=theta, reference=ideal).weights(None, losses)
        ray = preference / preference.norm()
        torch.testing.assert_close(weights @ ray, torch.ones_like(ray[0]))
        if len(losses) == 1:  # across is rounding alone, and so is its direction, up to the 1e-12
            torch.testing.assert_close(weights, torch.ones_like(weights))
            continue
        assert_derivative(
            weights, lambda x, p=preference, z=ideal: scalar(x, p, theta, z), losses, rtol=1e-11
        )
        peer = scalarization.PBI(theta, preference, ideal)
        assert_derivative(weights, peer, losses, rtol=1e-11)


def test_on_the_ray_only_the_way_along_it_counts() -> None:
    weights = PBI(weights=[3.0, 4.0]).weights(None, torch.tensor([6.0, 8.0], dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([0.6, 0.8], dtype=torch.float64))


def test_leaves_out() -> None:
    method = PBI(weights=[0.2, 0.3, 0.5], reference=[0.1, 0.2, 0.3])
    weights = method.weights(None, torch.tensor([1.0, torch.nan, 3.0]))
    others = PBI(weights=[0.2, 0.5], reference=[0.1, 0.3]).weights(None, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weights[[0, 2]], others)
    assert weights[1] == 0.0
    assert_needs_losses(method)


def test_validation() -> None:
    with pytest.raises(ValueError, match="`theta` should not be negative"):
        PBI(weights=[1.0], theta=-1.0)
    for bad in ([-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="`weights` should hold positive numbers and zeros"):
            PBI(weights=bad)
    with pytest.raises(ValueError, match="one number for each of 2 tasks"):
        PBI(weights=[1.0, 1.0], reference=[1.0]).weights(None, torch.ones(2))

"""The geometric mean of the losses."""

from __future__ import annotations

import pytest
import torch
from multitask import wrap
from scalarised import assert_derivative, assert_leaves_out, assert_needs_losses, some_losses

from mtl_ops.methods import Geometric


def test_is_the_derivative_of_the_geometric_mean() -> None:
    for losses in some_losses():
        weights = Geometric().weights(None, losses)
        assert_derivative(weights, lambda x: x.log().mean().exp(), losses)
        torch.testing.assert_close(weights @ losses, losses.log().mean().exp())
        assert (weights > 0).all()


def test_agrees_with_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    for losses in some_losses():
        assert_derivative(Geometric().weights(None, losses), scalarization.GeometricMean(), losses)


def test_agrees_with_the_product_of_libmtl() -> None:
    for losses in some_losses():
        assert_derivative(
            Geometric().weights(None, losses), lambda x: x.pow(1 / len(x)).prod(), losses
        )


def test_no_overflow() -> None:
    for size in (1e300, 1e-300):  # the product of three is not a float64
        losses = torch.full((3,), size, dtype=torch.float64)
        torch.testing.assert_close(
            Geometric().weights(None, losses), torch.full_like(losses, 1 / 3)
        )


def test_leaves_out() -> None:
    for losses in some_losses():
        assert_leaves_out(Geometric(), losses)
    assert_needs_losses(Geometric())


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_where_a_loss_is_not_positive_nothing_is_defined(bad: float) -> None:
    assert Geometric().weights(None, torch.tensor([bad, 2.0])).isnan().all()


@pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step"])
def test_then_there_is_no_step(nonfinite: str) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = wrap([x], "geometric", nonfinite=nonfinite)
    optimizer.backward([x.sum(), -x.sum()])
    assert optimizer.report.weights is not None
    assert optimizer.report.weights.isnan().all()
    optimizer.step()
    assert x.tolist() == [1.0, 2.0]

"""The two-parameter problem, against its published formula."""

from __future__ import annotations

import math

import pytest
import torch

from mtl_ops.data import TOY_STARTS, toy_losses


def published(x: float, y: float) -> tuple[float, float]:
    """With numbers instead of tensors, and the constants as in the papers."""
    if y > 0:
        weight = math.tanh(0.5 * y)
        first = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
        second = math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6
    else:
        weight = math.tanh(-0.5 * y)
        first = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
        second = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    return 0.1 * weight * first, weight * second


def test_is_the_published_formula() -> None:
    points = 22 * torch.rand(200, 2, dtype=torch.float64, generator=torch.manual_seed(0)) - 11
    expected = torch.tensor([published(*point) for point in points.tolist()], dtype=torch.float64)
    torch.testing.assert_close(toy_losses(points), expected)
    torch.testing.assert_close(toy_losses(points[3]), expected[3])


def test_first_scale_scales_the_first_loss_only() -> None:
    points = torch.tensor(TOY_STARTS, dtype=torch.float64)
    tenth, whole = toy_losses(points), toy_losses(points, first_scale=1.0)
    torch.testing.assert_close(whole, tenth * torch.tensor([10.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("start", TOY_STARTS)
def test_gradients_are_finite_at_every_start(start: tuple[float, float]) -> None:
    theta = torch.tensor(start, requires_grad=True)
    for loss in toy_losses(theta).unbind():
        (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_best_sum_lies_halfway_between_the_minima_where_the_tasks_conflict() -> None:
    # The star in CAGrad's figure of the problem.
    theta = torch.tensor([0.0, -8.3552], dtype=torch.float64, requires_grad=True)
    first, second = (
        torch.autograd.grad(loss, theta, retain_graph=True)[0]
        for loss in toy_losses(theta, first_scale=1.0).unbind()
    )
    torch.testing.assert_close(first, -second, rtol=0, atol=1e-3)
    assert torch.dot(first, second) < -1.0


def test_a_point_needs_two_coordinates() -> None:
    with pytest.raises(ValueError, match=r"Parameter `theta` should have shape .*\(3,\)"):
        toy_losses(torch.zeros(3))

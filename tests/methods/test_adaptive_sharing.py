"""Adaptive sharing: its definition, its limits and its guarantees."""

from __future__ import annotations

import pytest
import torch
from matrices import SINGULAR, cases, gram
from resuming import assert_forgets, assert_resumes
from torch import Tensor

import mtl_ops
from mtl_ops.methods import AdaptiveSharing


def by_the_definition(jacobian: Tensor, averages: Tensor) -> Tensor:
    """Each task's update from its relatives, and the step of all."""
    tasks = len(jacobian)
    share = [
        [1.0 if i == j else max(float(averages[i, j]), 0.0) for j in range(tasks)]
        for i in range(tasks)
    ]
    merged = torch.zeros_like(jacobian[0])
    for i in range(tasks):
        relatives = sum(share[i])
        update = sum(share[i][j] * jacobian[j] for j in range(tasks)) / relatives
        merged += update / relatives
    return merged


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_definition(beta: float) -> None:
    method = AdaptiveSharing(beta=beta)
    averages = None
    for case in cases(["random", "conflict", "shared_direction", "graded"], sizes=(5,)):
        jacobian = case.jacobian[:, :13] if case.jacobian.shape[1] > 13 else case.jacobian
        lengths = jacobian.norm(dim=1, keepdim=True)
        cosines = (jacobian / lengths) @ (jacobian / lengths).T
        averages = cosines if averages is None else beta * averages + (1 - beta) * cosines
        expected = by_the_definition(jacobian, averages)
        merged = mtl_ops.merge(jacobian, method)
        torch.testing.assert_close(merged, expected, rtol=1e-9, atol=1e-11 * lengths.max().item())


class TestLimits:
    @pytest.mark.parametrize("tasks", [1, 2, 5, 64, 70])
    def test_all_related_is_the_mean(self, tasks: int) -> None:
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(1, 9, generator=generator, dtype=torch.float64)
        jacobian = direction * torch.rand(tasks, 1, generator=generator, dtype=torch.float64)
        weights = AdaptiveSharing().weights(jacobian @ jacobian.T)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / tasks))

    @pytest.mark.parametrize("jacobian", [torch.eye(4), torch.eye(4) - 0.25], ids=["90°", "more"])
    def test_unrelated_is_the_sum_of_independent_updates(self, jacobian: Tensor) -> None:
        weights = AdaptiveSharing().weights(jacobian @ jacobian.T)
        torch.testing.assert_close(weights, torch.ones_like(weights))

    def test_groups_contribute_their_means(self) -> None:
        jacobian = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 3.0, 0], [0, 0, 4.0], [0, 0, 8.0]])
        merged = mtl_ops.merge(jacobian, "adaptive_sharing")
        torch.testing.assert_close(merged, torch.tensor([1.5, 3.0, 6.0]))


def test_guarantees() -> None:
    for case in cases(sizes=(1, 2, 5, 9), seeds=2):
        weights = AdaptiveSharing().weights(case.gram[0])
        assert (weights > 0).all(), case
        assert 1 - 1e-12 <= float(weights.sum()) <= case.tasks + 1e-12, case
        for factor in (1e-8, 1e8):
            scaled = AdaptiveSharing().weights(factor * case.gram[0])
            torch.testing.assert_close(scaled, weights)
        order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(case.seed))
        moved = AdaptiveSharing().weights(case.gram[0][order][:, order])
        torch.testing.assert_close(moved, weights[order])


def test_lengths_of_single_gradients_do_not_matter() -> None:
    for case in cases({"random", "conflict", "square"} - SINGULAR, sizes=(5,)):
        lengths = torch.logspace(-3, 3, 5, dtype=torch.float64).unsqueeze(1)
        weights = AdaptiveSharing().weights(gram(case.jacobian)[0])
        scaled = AdaptiveSharing().weights(gram(lengths * case.jacobian)[0])
        torch.testing.assert_close(scaled, weights)


def test_tasks_without_a_part() -> None:
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    method = AdaptiveSharing(beta=0.5)
    scale = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    weights = method.solve(gram(one), scale, None)
    pair = AdaptiveSharing().weights(one[[0, 2]] @ one[[0, 2]].T)
    torch.testing.assert_close(weights[0, [0, 2]], pair * scale[0, [0, 2]])
    assert weights[0, 1] == 0.0
    assert method.cosines is not None
    assert method.cosines[0, 1].isnan().all()
    assert method.cosines[0, 0, 2].item() == pytest.approx(0.5**0.5)
    method.solve(gram(-one), None, None)  # the same cosines, and now of all
    torch.testing.assert_close(method.cosines[0, 0, 1], torch.ones_like(method.cosines[0, 0, 1]))


def test_zero_gradients_and_what_is_not_finite_leave_the_averages() -> None:
    method = AdaptiveSharing()
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    method.weights(one @ one.T)
    zero = method.weights(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(zero, torch.full_like(zero, 0.5))
    assert method.weights(torch.full((2, 2), torch.inf)).isnan().all()
    torch.testing.assert_close(method.cosines, torch.ones(1, 2, 2, dtype=torch.float64))


def test_segments() -> None:
    stacked = torch.stack([torch.eye(3), torch.ones(3, 3)])
    weights = AdaptiveSharing().weights(stacked)
    torch.testing.assert_close(weights[0], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(weights[1], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_resumes_and_forgets() -> None:
    assert_resumes(AdaptiveSharing)
    assert_resumes(AdaptiveSharing, granularity="group")
    assert_forgets(AdaptiveSharing)


def test_validation() -> None:
    with pytest.raises(ValueError, match=r"`beta` should be in \[0, 1\)"):
        AdaptiveSharing(beta=1.0)
    method = AdaptiveSharing()
    method.weights(torch.eye(2))
    with pytest.raises(ValueError, match="same tasks and segments every time"):
        method.weights(torch.eye(3))
    with pytest.raises(TypeError, match="Found `orders`"):
        method.weights(torch.eye(2), orders=torch.eye(2))

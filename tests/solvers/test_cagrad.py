"""CAGrad."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, make, norms
from merged import assert_same, length, size
from torch import Tensor

from mtl_ops import ops, reference

DESCENT = sorted(set(FAMILIES) - STATIONARY)
RADII = [0.1, 0.5, 1.0, 2.0]


def parts(case: Case, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean gradient, the merged one, and z of ``w = 1/k + z``."""
    uniform = torch.full_like(w, 1 / case.tasks)
    return case.jacobian.T @ uniform, case.jacobian.T @ w, w - uniform


class TestExact:
    @pytest.mark.parametrize("c", RADII)
    def test_is_on_the_sphere(self, c: float) -> None:
        for case in cases(DESCENT, sizes=(1, 2, 3, 8), seeds=2):
            w = ops.solve_cagrad(case.gram, c=c)[0]
            mean, merged, z = parts(case, w)
            assert (z >= 0).all(), str(case)
            off = float((merged - mean).norm()) - c * float(mean.norm())
            assert abs(off) <= 1e-12 * size(case, w), str(case)

    @pytest.mark.parametrize("c", RADII)
    def test_no_other_direction_is_better_for_the_worst_task(self, c: float) -> None:
        """The least gain equals the value of the dual problem, which no direction can exceed."""
        for case in cases(DESCENT, sizes=(2, 3, 8, 16), seeds=2):
            w = ops.solve_cagrad(case.gram, c=c)[0]
            mean, merged, z = parts(case, w)
            omega = z / z.sum()
            pull = case.jacobian.T @ omega
            dual = float(pull @ mean + c * mean.norm() * pull.norm())
            least = float((case.jacobian @ merged).min())
            longest = float(norms(case.jacobian)[z > 0].max())
            assert dual - least <= 1e-13 * longest * size(case, w), str(case)

    def test_the_worst_task_gains_more_than_from_the_mean(self) -> None:
        for case in cases(sizes=(2, 5, 16), seeds=2):
            mean, merged, _ = parts(case, ops.solve_cagrad(case.gram)[0])
            before, after = (case.jacobian @ mean).min(), (case.jacobian @ merged).min()
            slack = float(norms(case.jacobian).max()) ** 2 * 1e-8
            if merged.norm() > 0:
                assert float(after) >= float(before) - slack, str(case)

    @pytest.mark.parametrize("c", RADII)
    def test_against_the_definition(self, c: float) -> None:
        for case in cases(DESCENT, sizes=(2, 3, 6), seeds=1):
            found = ops.solve_cagrad(case.gram, c=c)[0]
            wanted = reference.solve_cagrad(case.gram, None, c, 0, 0.0)[0]
            assert_same(case, found, wanted, rtol=1e-9, of_terms=2e-12)

    def test_64_tasks(self) -> None:
        for case in cases(["random", "conflict"], (64,), 1):
            found = ops.solve_cagrad(case.gram)[0]
            wanted = reference.solve_cagrad(case.gram, None, 0.5, 0, 0.0)[0]
            assert_same(case, found, wanted, rtol=1e-9)

    def test_against_all_directions_of_the_plane(self) -> None:
        angles = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
        circle = torch.stack([angles.cos(), angles.sin()], dim=1)
        generator = torch.Generator().manual_seed(0)
        for tasks in (2, 3, 5):
            for _ in range(5):
                j = torch.randn(tasks, 2, generator=generator, dtype=torch.float64)
                mean = j.mean(dim=0)
                ball = mean + 0.5 * mean.norm() * circle
                best = (ball @ j.T).min(dim=1).values.max()
                d = j.T @ ops.solve_cagrad(gram(j))[0]
                least = (j @ d).min()
                # On a plane 0 may be in the hull, where the best least gain is 0 for many d.
                assert float(least) >= float(best) - 1e-6 * float(norms(j).max()) ** 2
                assert (d - mean).norm() <= 0.5 * mean.norm() * (1 + 1e-6)

    @pytest.mark.parametrize("factor", [1e-15, 1e-3, 1e15])
    def test_the_size_of_the_gradients_does_not_matter(self, factor: float) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2, 8), seeds=2):
            w = ops.solve_cagrad(case.gram)
            scaled = ops.solve_cagrad(gram(factor * case.jacobian))
            torch.testing.assert_close(scaled, w, rtol=1e-8, atol=1e-12)

    def test_renaming_the_tasks_renames_the_weights(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(3, 8), seeds=2):
            order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(1))
            w = ops.solve_cagrad(case.gram)[0]
            renamed = ops.solve_cagrad(case.gram[:, order][:, :, order].contiguous())[0]
            torch.testing.assert_close(renamed, w[order], rtol=1e-8, atol=1e-10)


class TestParameters:
    @pytest.mark.parametrize(("rescale", "divisor"), [(0, 1.0), (1, 1.49), (2, 1.7)])
    def test_rescale(self, rescale, divisor: float) -> None:
        for case in cases(["random", "conflict"], sizes=(1, 2, 8)):
            w = ops.solve_cagrad(case.gram, c=0.7)
            found = ops.solve_cagrad(case.gram, c=0.7, rescale=rescale)
            torch.testing.assert_close(found, w / divisor)

    def test_no_radius_is_the_mean(self) -> None:
        for case in cases(["random", "conflict", "rank_deficient"], sizes=(1, 2, 8)):
            w = ops.solve_cagrad(case.gram, c=0.0)
            assert torch.equal(w, torch.full_like(w, 1 / case.tasks))

    @pytest.mark.parametrize("c", RADII)
    def test_one_task_goes_as_far_as_it_may(self, c: float) -> None:
        w = ops.solve_cagrad(torch.tensor([[[3.0]]], dtype=torch.float64), c=c)
        assert w.item() == pytest.approx(1 + c)

    def test_norm_eps_stops_short_gradients(self) -> None:
        case = make("conflict", 4, 0)
        trace = float(case.gram[0].trace())
        kept = ops.solve_cagrad(case.gram, norm_eps=1e-9)
        torch.testing.assert_close(kept, ops.solve_cagrad(case.gram))
        small = case.gram / trace
        assert (ops.solve_cagrad(small, norm_eps=1.001) == 0).all()

    def test_norm_eps_stops_where_the_pull_is_weak(self) -> None:
        case = make("conflict", 4, 0)
        trace = float(case.gram[0].trace())
        w = ops.solve_cagrad(case.gram)[0]
        _, _, z = parts(case, w)
        pull = length(case, z / z.sum()) / trace**0.5
        assert (ops.solve_cagrad(case.gram, norm_eps=0.999 * pull)[0] == w).all()
        assert (ops.solve_cagrad(case.gram, norm_eps=1.001 * pull) == 0).all()


class TestStationary:
    def test_answers_with_the_nearest_direction_that_contradicts_nobody(self) -> None:
        for case in cases(["stationary_face", "zero_row"], sizes=(3, 6, 9), seeds=3):
            w = ops.solve_cagrad(case.gram, c=1.0)[0]
            nearest = ops.solve_dualproj(case.gram, reg_eps=0.0)[0]
            mean, merged, _ = parts(case, w)
            if length(case, nearest) < 1e-6 * float(mean.norm()):
                continue  # that direction is 0
            assert_same(case, w, nearest, rtol=1e-6, of_terms=1e-7)
            assert (merged - mean).norm() <= mean.norm() * (1 + 1e-6)

    def test_norm_eps_stops_there(self) -> None:
        for case in cases(["stationary_face", "zero_row"], sizes=(3, 6), seeds=2):
            assert (ops.solve_cagrad(case.gram, c=1.0, norm_eps=1e-6) == 0).all(), str(case)

    def test_a_small_ball_does_not_reach_there(self) -> None:
        """With 0 in the hull, but beyond the ball, the answer is on its surface as ever."""
        j = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        case = Case("by hand", 3, 0, j)
        w = ops.solve_cagrad(case.gram, c=0.2)[0]
        mean, merged, _ = parts(case, w)
        assert float((merged - mean).norm()) == pytest.approx(0.2 * float(mean.norm()))
        wanted = reference.solve_cagrad(case.gram, None, 0.2, 0, 0.0)[0]
        assert_same(case, w, wanted, rtol=1e-9)

    def test_no_gradient_no_step(self) -> None:
        zero = torch.zeros(1, 3, 3, dtype=torch.float64)
        assert (ops.solve_cagrad(zero) == 0).all()
        opposite = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
        assert (ops.solve_cagrad(opposite) == 0).all()

    @pytest.mark.parametrize("c", RADII)
    def test_answers_are_finite_and_within_the_ball(self, c: float) -> None:
        for case in cases(STATIONARY, sizes=(2, 3, 8), seeds=2):
            w = ops.solve_cagrad(case.gram, c=c)[0]
            mean, merged, _ = parts(case, w)
            slack = 1e-6 * size(case, w) + 1e-15 * float(norms(case.jacobian).max())
            assert w.isfinite().all(), str(case)
            assert float((merged - mean).norm()) <= c * float(mean.norm()) + slack, str(case)

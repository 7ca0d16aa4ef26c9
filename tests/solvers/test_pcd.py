"""PCD."""

from __future__ import annotations

import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, make, norms
from merged import assert_same, length, size
from torch import Tensor

from mtl_ops import ops, reference

FEASIBLE = sorted(set(FAMILIES) - STATIONARY - {"near_opposite", "near_duplicates_fine"})


def no_memory(tasks: int, segments: int = 1) -> Tensor:
    return torch.zeros(segments, 2, tasks, dtype=torch.float64)


def solve(case: Case, **params: float) -> Tensor:
    """The first call: gradients are normalised by their own length."""
    return ops.solve_pcd(case.gram, state=no_memory(case.tasks), **{"eps": 0.0, **params})[0]


class TestDirection:
    def test_is_as_long_as_the_first_gradient(self) -> None:
        for case in cases(FEASIBLE, sizes=(1, 2, 5, 9), seeds=2):
            w = solve(case)
            first = float(case.jacobian[0].norm())
            assert length(case, w) == pytest.approx(first, rel=1e-9), str(case)

    @pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
    def test_every_other_task_gains_its_share(self, tau: float) -> None:
        for case in cases(FEASIBLE, sizes=(2, 3, 8), seeds=2):
            w = solve(case, tau=tau)
            if (w[1:] == 0).all():
                continue
            lengths = norms(case.jacobian)
            d = case.jacobian.T @ (w / w[0]) / lengths[0]  # the direction before its length is set
            gains = case.jacobian[1:] @ d / lengths[1:].clamp(min=1e-300)
            present = lengths[1:] > 0
            slack = 1e-11 * float(w @ lengths) / float(w[0] * lengths[0])
            assert (gains[present] >= tau - slack).all(), str(case)

    def test_is_the_nearest_to_the_first_gradient(self) -> None:
        """Multipliers are not negative, and where one is positive the demand is just met."""
        for case in cases(FEASIBLE, sizes=(2, 3, 8), seeds=2):
            w = solve(case, tau=0.1)
            lengths = norms(case.jacobian)
            assert (w >= 0).all(), str(case)
            scaled = w * lengths / (w[0] * lengths[0])
            d = case.jacobian.T @ (w / w[0]) / lengths[0]
            gains = case.jacobian @ d / lengths.clamp(min=1e-300)
            active = (w > 0) & (torch.arange(case.tasks) > 0)
            slack = 1e-11 * float(scaled.sum())
            assert ((gains - 0.1).abs()[active] <= slack).all(), str(case)

    def test_without_need_it_is_the_first_gradient(self) -> None:
        for case in cases(["shared_direction", "nonnegative"], sizes=(1, 2, 8)):
            w = solve(case)
            torch.testing.assert_close(w, torch.eye(case.tasks, dtype=torch.float64)[0])
            assert (w[1:] == 0).all()

    def test_demands_that_contradict_each_other_are_dropped(self) -> None:
        j = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
        w = ops.solve_pcd(gram(j), state=no_memory(3), eps=0.0)[0]
        assert w.tolist() == [1, 0, 0]

    def test_a_first_gradient_of_zero_stops(self) -> None:
        case = make("random", 3, 0)
        j = case.jacobian.clone()
        j[0] = 0.0
        assert (ops.solve_pcd(gram(j), state=no_memory(3)) == 0).all()

    def test_a_first_task_that_takes_no_part_stops(self) -> None:
        case = make("random", 3, 0)
        scale = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
        state = no_memory(3)
        assert (ops.solve_pcd(case.gram, scale, state=state) == 0).all()
        assert (state[0, 0] > 0).tolist() == [False, True, True]

    def test_what_vanishes_has_no_direction(self) -> None:
        j = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
        assert (ops.solve_pcd(gram(j), state=no_memory(2), tau=0.0, eps=0.0) == 0).all()

    @pytest.mark.parametrize("factor", [1e-15, 1e15])
    def test_the_size_of_the_gradients_does_not_matter_without_eps(self, factor: float) -> None:
        for case in cases(["random", "conflict"], sizes=(2, 8)):
            scaled = Case("scaled", case.tasks, 0, factor * case.jacobian)
            torch.testing.assert_close(solve(scaled), solve(case), rtol=1e-9, atol=1e-12)

    def test_the_length_of_another_gradient_does_not_matter_without_eps(self) -> None:
        for case in cases(["random", "conflict"], sizes=(3, 8)):
            factors = torch.logspace(0, 6, case.tasks, dtype=torch.float64).unsqueeze(1)
            scaled = Case("scaled", case.tasks, 0, factors * case.jacobian)
            d, other = case.jacobian.T @ solve(case), scaled.jacobian.T @ solve(scaled)
            torch.testing.assert_close(other, d, rtol=1e-9, atol=1e-12)


class TestMemory:
    def test_running_means_corrected_for_their_start(self) -> None:
        state, total, mean = no_memory(3), 0.0, torch.zeros(3, dtype=torch.float64)
        for seed in range(5):
            case = make("random", 3, seed)
            ops.solve_pcd(case.gram, state=state, beta=0.8)
            mean = 0.8 * mean + 0.2 * norms(case.jacobian) ** 2
            total = 0.8 * total + 0.2
            torch.testing.assert_close(state[0, 0], mean)
            torch.testing.assert_close(state[0, 1], torch.full_like(mean, total))
            assert total == pytest.approx(1 - 0.8 ** (seed + 1))

    def test_lengths_so_far_decide_what_a_task_demands(self) -> None:
        j = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
        fresh = ops.solve_pcd(gram(j), state=no_memory(2), tau=0.5, eps=0.0)
        state = torch.tensor([[[1.0, 1e4], [1.0, 1.0]]], dtype=torch.float64)
        used = ops.solve_pcd(gram(j), state=state, tau=0.5, beta=0.999, eps=0.0)
        assert float(used[0, 1] / used[0, 0]) < float(fresh[0, 1] / fresh[0, 0])

    @pytest.mark.parametrize("solver", [ops.solve_pcd, reference.solve_pcd])
    def test_of_a_task_that_takes_no_part_nothing_changes(self, solver) -> None:
        state = torch.full((1, 2, 3), 0.5, dtype=torch.float64)
        scale = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        solver(make("random", 3, 0).gram, scale, state=state, tau=0.02, beta=0.9, eps=0.0)
        assert (state[0, :, 1] == 0.5).all()
        assert (state[0, :, [0, 2]] != 0.5).all()

    @pytest.mark.parametrize("solver", [ops.solve_pcd, reference.solve_pcd])
    def test_a_problem_that_is_not_finite_changes_nothing(self, solver) -> None:
        state = torch.full((1, 2, 3), 0.5, dtype=torch.float64)
        matrix = make("random", 3, 0).gram.clone()
        matrix[0, 1, 1] = torch.inf
        assert solver(matrix, None, state=state, tau=0.02, beta=0.9, eps=0.0).isnan().all()
        assert (state == 0.5).all()


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.3])
def test_against_the_definition(tau: float) -> None:
    for family in FEASIBLE:
        state, expected = no_memory(4), no_memory(4)
        for case in cases([family], sizes=(4,), seeds=4):
            found = ops.solve_pcd(case.gram, state=state, tau=tau, beta=0.7, eps=1e-30)[0]
            wanted = reference.solve_pcd(case.gram, None, expected, tau, 0.7, 1e-30)[0]
            assert_same(case, found, wanted, rtol=1e-9, of_terms=1e-11)
            torch.testing.assert_close(state, expected, rtol=1e-14, atol=0)


def test_64_tasks() -> None:
    for case in cases(["random", "conflict"], (33, 64), 1):
        found = solve(case, tau=0.0)
        wanted = reference.solve_pcd(case.gram, None, no_memory(case.tasks), 0.0, 0.999, 0.0)[0]
        assert_same(case, found, wanted, rtol=1e-8)
        assert size(case, found) > 0


class TestContract:
    """The rest, for solvers without memory, is in ``test_contract.py``."""

    def test_a_task_left_out_is_a_smaller_problem_to_the_last_bit(self) -> None:
        for case in cases(sizes=(5, 9), seeds=1):
            kept = torch.arange(case.tasks) % 3 != 1
            scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64).unsqueeze(0)
            state = torch.full((1, 2, case.tasks), 0.3, dtype=torch.float64)
            rest = state[:, :, kept].contiguous()
            found = ops.solve_pcd(case.gram, torch.where(kept, scale, 0.0), state=state)
            part = case.gram[:, kept][:, :, kept].contiguous()
            wanted = ops.solve_pcd(part, scale[:, kept].contiguous(), state=rest)
            assert torch.equal(found[:, kept], wanted), str(case)
            assert torch.equal(state[:, :, kept], rest), str(case)
            assert not found[:, ~kept].any()

    def test_segments_are_problems_of_their_own(self) -> None:
        grams = torch.cat([case.gram for case in cases(FEASIBLE, sizes=(6,), seeds=1)])
        state = no_memory(6, len(grams))
        alone = state.clone()
        together = ops.solve_pcd(grams, state=state)
        for s in range(len(grams)):
            part = slice(s, s + 1)
            assert torch.equal(together[part], ops.solve_pcd(grams[part], state=alone[part]))
        assert torch.equal(state, alone)

    def test_the_kernel_checks_what_it_gets(self) -> None:
        matrix = torch.eye(3, dtype=torch.float64).unsqueeze(0)
        for bad in (no_memory(2), no_memory(3).float(), no_memory(3)[:, :1].contiguous()):
            with pytest.raises(RuntimeError, match="state should be"):
                ops.solve_pcd(matrix, state=bad)

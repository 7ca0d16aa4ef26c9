"""Nash-MTL and FairGrad: ``(G w)_i = w_i^{-1/α}``."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, make, norms
from merged import assert_same, length
from torch import Tensor

from mtl_ops import ops, reference

from . import sixty_digits as digits

#: A direction suits all tasks, so that the equation has a solution without the ridge.
SOLVABLE = sorted(set(FAMILIES) - STATIONARY)
ALPHAS = (0.5, 1.0, 2.0, 5.0)


def solve(case: Case, alpha: float, ridge: float = 0.0) -> Tensor:
    if alpha == 1.0:
        return ops.solve_nash_mtl(case.gram, max_norm=None, reg_eps=ridge)[0]
    return ops.solve_fairgrad(case.gram, alpha=alpha, reg_eps=ridge)[0]


def rounding(case: Case, w: Tensor, alpha: float) -> float:
    """What the equation holds to if w is only rounded: ``ε (|G| w)_i w_i^{1/α}`` at most."""
    terms = (case.gram[0].abs() @ w) * w ** (1 / alpha)
    return torch.finfo(torch.float64).eps * float(terms.max())


class TestEquation:
    @pytest.mark.parametrize("ridge", [0.0, 1e-6])
    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_holds_to_rounding(self, alpha: float, ridge: float) -> None:
        for case in cases(SOLVABLE, sizes=(1, 2, 3, 7), seeds=1):
            w = solve(case, alpha, ridge)
            residual = digits.fairness_residual(case.gram[0], w, alpha, ridge)
            allowed = max(1e-12, 16 * rounding(case, w, alpha))
            assert residual <= allowed, f"{case}: {residual:.1e}, {allowed:.1e} allowed"

    @pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e15])
    def test_nash_holds_to_1e_12_whatever_the_size_of_the_gradients(self, scale: float) -> None:
        for case in cases(["random", "conflict", "steeply_graded"], sizes=(2, 4, 16), seeds=2):
            scaled = gram(scale * case.jacobian)
            w = ops.solve_nash_mtl(scaled, max_norm=None, reg_eps=0.0)[0]
            assert digits.fairness_residual(scaled[0], w, 1.0) <= 1e-12, str(case)

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_32_and_64_tasks(self, alpha: float) -> None:
        for case in cases(["random", "shared_direction", "conflict", "graded"], (33, 64), 1):
            w = solve(case, alpha)
            residual = (1 - (case.gram[0] @ w) * w ** (1 / alpha)).abs().max()
            assert residual <= max(1e-12, 16 * rounding(case, w, alpha)), str(case)

    def test_weights_are_positive_and_every_task_gains(self) -> None:
        for case in cases(SOLVABLE, sizes=(1, 2, 3, 5, 8), seeds=1):
            if not (norms(case.jacobian) > 0).all():
                continue
            for alpha in ALPHAS:
                w = solve(case, alpha)
                assert (w > 0).all()
                assert (case.gram[0] @ w > 0).all()


class TestSmallAlpha:
    """Of conflicting tasks: ``w_i^{-1/α}`` of a large weight is less than the rounding of ``(Gw)_i``."""

    CASES = (("random", 10, 3), ("random", 20, 10), ("shared", 16, 4), ("anti", 3, 2))

    @staticmethod
    def rows(kind: str, tasks: int, size: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
        if kind == "anti":
            rows[-1] = -rows[:-1].sum(dim=0)
        return rows + 0.3 if kind == "shared" else rows

    @pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4])
    @pytest.mark.parametrize("case", CASES)
    def test_the_utility_is_largest(self, case: tuple[str, int, int], alpha: float) -> None:
        """Newton's method, in relative steps, has nowhere to go from there."""
        ridge = 3e-6
        for seed in range(3):
            matrix = gram(self.rows(*case, seed))
            w = ops.solve_fairgrad(matrix, alpha=alpha, reg_eps=ridge)[0]
            matrix = matrix[0] + ridge * torch.diag(matrix[0].diagonal())
            slope = w * (matrix @ w) - w ** (1 - 1 / alpha)
            hessian = w.outer(w) * matrix + torch.diag(w ** (1 - 1 / alpha) / alpha)
            step = torch.linalg.solve(hessian, slope)
            assert step.abs().max() <= 1e-6, f"{case}, seed {seed}: {step.abs().max():.1e}"

    @pytest.mark.parametrize("case", CASES)
    def test_is_the_definition(self, case: tuple[str, int, int]) -> None:
        for seed in range(3):
            matrix = gram(self.rows(*case, seed))
            found = ops.solve_fairgrad(matrix, alpha=0.1, reg_eps=3e-6)
            wanted = reference.solve_fairgrad(matrix, None, 0.1, 3e-6)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


class TestAgainstTheDefinition:
    """The reference minimises the potential itself by plain Newton steps."""

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_solvable(self, alpha: float) -> None:
        for case in cases(SOLVABLE, sizes=(1, 2, 3, 6), seeds=1):
            found = solve(case, alpha, 1e-10)
            wanted = reference.solve_fairgrad(case.gram, None, alpha, 1e-10)[0]
            # The potential is flat where gradients nearly cancel: an error of the residual grows
            # with the square of the cancellation.
            cancels = float(found @ norms(case.jacobian)) / length(case, found)
            rtol = 1e-10 + 1e-14 * cancels**2 + 1e3 * rounding(case, found, alpha)
            assert_same(case, found, wanted, rtol=rtol)

    def test_stationary(self) -> None:
        # What is left of the merged gradient is of the order of √reg_eps; its length is known.
        for case in cases(STATIONARY, sizes=(2, 3, 6), seeds=1):
            found = ops.solve_nash_mtl(case.gram, reg_eps=1e-6)
            wanted = reference.solve_nash_mtl(case.gram, None, 1.0, 1e-6)
            assert_same(case, found[0], wanted[0], rtol=1e-5, of_terms=1e-10)

    def test_no_limit_and_no_fairness(self) -> None:
        case = make("random", 5, 0)
        assert_same(
            case,
            ops.solve_nash_mtl(case.gram, max_norm=None)[0],
            reference.solve_nash_mtl(case.gram, None, None, 1e-10)[0],
            rtol=1e-12,
        )
        uniform = reference.solve_fairgrad(case.gram, None, 0.0, 1e-10)
        assert torch.equal(ops.solve_fairgrad(case.gram, alpha=0.0), uniform)


class TestNash:
    def test_the_merged_gradient_has_norm_root_of_tasks(self) -> None:
        for case in cases(SOLVABLE, sizes=(1, 2, 3, 5, 8), seeds=1):
            present = int((norms(case.jacobian) > 0).sum())
            d = length(case, solve(case, 1.0))
            assert d == pytest.approx(math.sqrt(present), rel=1e-8), str(case)

    @pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e3])
    def test_the_limit(self, max_norm: float) -> None:
        for case in cases(SOLVABLE, sizes=(1, 2, 3, 5, 8), seeds=1):
            w = ops.solve_nash_mtl(case.gram, max_norm=max_norm, reg_eps=0.0)[0]
            free = solve(case, 1.0)
            factor = min(1.0, max_norm / max(length(case, free), 1e-300))
            assert_same(case, w, factor * free, rtol=1e-8)

    def test_lengths_of_the_gradients_do_not_matter(self) -> None:
        for case in cases(["random", "conflict", "nonnegative"], sizes=(2, 3, 8)):
            factors = torch.logspace(-6, 6, case.tasks, dtype=torch.float64).unsqueeze(1)
            d = case.jacobian.T @ solve(case, 1.0)
            scaled = factors * case.jacobian
            e = scaled.T @ ops.solve_nash_mtl(gram(scaled), max_norm=None, reg_eps=0.0)[0]
            assert (d - e).norm() <= 1e-12 * d.norm()

    def test_is_fairgrad_with_alpha_one(self) -> None:
        for case in cases(sizes=(1, 3, 8), seeds=1):
            nash = ops.solve_nash_mtl(case.gram, max_norm=None)
            assert torch.equal(nash, ops.solve_fairgrad(case.gram, alpha=1.0))


class TestFairGrad:
    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_degree(self, alpha: float) -> None:
        for case in cases(["random", "graded"], sizes=(2, 5)):
            w, factor = solve(case, alpha), 1e3
            scaled = Case(case.family, case.tasks, case.seed, factor * case.jacobian)
            d = case.jacobian.T @ w
            e = scaled.jacobian.T @ solve(scaled, alpha)
            assert (e / factor ** ((1 - alpha) / (1 + alpha)) - d).norm() <= 1e-9 * d.norm()

    def test_large_alpha_evens_out_progress(self) -> None:
        case = make("random", 4, 0)
        spreads = []
        for alpha in (0.5, 1.0, 4.0, 50.0):
            progress = case.gram[0] @ solve(case, alpha)
            spreads.append(float(progress.max() / progress.min()))
        assert spreads == sorted(spreads, reverse=True)
        assert spreads[-1] < 1.1

    def test_one_task(self) -> None:
        one = torch.full((1, 1, 1), 9.0, dtype=torch.float64)
        for alpha in ALPHAS:
            w = ops.solve_fairgrad(one, alpha=alpha, reg_eps=0.0).item()
            assert w == pytest.approx(3.0 ** (-2 * alpha / (1 + alpha)), rel=1e-14)


class TestDegenerate:
    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_a_zero_gradient_has_no_weight_and_no_influence(self, alpha: float) -> None:
        for case in cases(["zero_row"], sizes=(2, 3, 5, 8), seeds=4):
            kept = norms(case.jacobian) > 0
            w = solve(case, alpha)
            smaller = Case("kept", int(kept.sum()), case.seed, case.jacobian[kept])
            assert torch.allclose(w[kept], solve(smaller, alpha), rtol=1e-11, atol=0)
            assert not w[~kept].any()

    def test_all_zero(self) -> None:
        zero = torch.zeros(1, 3, 3, dtype=torch.float64)
        assert not ops.solve_nash_mtl(zero).any()
        assert not ops.solve_fairgrad(zero, alpha=2.0).any()

    def test_opposite_gradients_cancel_and_the_others_proceed(self) -> None:
        rows = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 2.0, 0]], dtype=torch.float64)
        d = rows.T @ ops.solve_nash_mtl(gram(rows), max_norm=None)[0]
        assert d.tolist() == pytest.approx([0, 1, 0], abs=1e-5)

    @pytest.mark.parametrize("alpha", ALPHAS)
    def test_without_a_common_direction_the_answer_is_finite(self, alpha: float) -> None:
        for case in cases(STATIONARY, sizes=(1, 2, 5, 16, 33), seeds=2):
            for ridge in (0.0, 1e-10):
                w = solve(case, alpha, ridge)
                assert w.isfinite().all(), str(case)
                assert (w >= 0).all()

    def test_the_update_of_a_stationary_problem_is_small(self) -> None:
        for ridge in (1e-6, 1e-8, 1e-10):
            case = make("simplex", 4, 0)
            assert length(case, solve(case, 1.0, ridge)) <= 10 * math.sqrt(ridge)

"""UPGrad and DualProj: projections on the dual cone of the gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, make, norms
from merged import assert_same, size
from torch import Tensor

from mtl_ops import ops, reference

from . import certified, sixty_digits

ORDINARY = ["random", "square", "shared_direction", "conflict", "graded", "near_duplicates"]
SOLVERS = [ops.solve_upgrad, ops.solve_dualproj]

Scaling = Literal["rows", "frobenius"]


def ridged(case: Case, scaling: Scaling, reg_eps: float) -> Tensor:
    """``G + ridge``."""
    matrix = case.gram[0].clone()
    diagonal = matrix.diagonal()
    diagonal += reg_eps * (diagonal if scaling == "rows" else diagonal.sum())
    return matrix


def some_preference(tasks: int) -> Tensor:
    return torch.linspace(0.2, 1.0, tasks, dtype=torch.float64)


class TestBoth:
    @pytest.mark.parametrize("scaling", ["rows", "frobenius"])
    @pytest.mark.parametrize("solve", SOLVERS)
    def test_no_gradient_is_contradicted(self, solve: Any, scaling: Scaling) -> None:
        for case in cases(sizes=(1, 2, 3, 8, 16), seeds=2):
            p = some_preference(case.tasks)
            w = solve(case.gram, preference=p, scaling=scaling, reg_eps=1e-4)[0]
            matrix = ridged(case, scaling, 1e-4)
            gains, lengths = matrix @ w, matrix.diagonal().sqrt()
            assert (w >= p).all(), str(case)
            assert (gains >= -1e-13 * lengths * float(w @ lengths)).all(), str(case)

    @pytest.mark.parametrize("scaling", ["rows", "frobenius"])
    @pytest.mark.parametrize("solve", SOLVERS)
    def test_cosines_are_above_the_ridge(self, solve: Any, scaling: Scaling) -> None:
        for case in cases(ORDINARY, sizes=(2, 8), seeds=2):
            w = solve(case.gram, scaling=scaling, reg_eps=1e-3)[0]
            gains, squares = case.gram[0] @ w, case.gram[0].diagonal()
            ridge = 1e-3 * (squares if scaling == "rows" else squares.sum())
            assert (gains >= -ridge * w * (1 + 1e-9)).all(), str(case)

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_without_conflict_nothing_changes(self, solve: Any) -> None:
        for case in cases(["nonnegative", "orthogonal"], sizes=(1, 2, 9, 40)):
            p = some_preference(case.tasks)
            assert torch.equal(solve(case.gram, preference=p)[0], p)
            assert torch.equal(solve(case.gram)[0], torch.full_like(p, 1 / case.tasks))

    @pytest.mark.parametrize("factor", [1e-15, 1e-3, 1e15])
    @pytest.mark.parametrize("scaling", ["rows", "frobenius"])
    @pytest.mark.parametrize("solve", SOLVERS)
    def test_the_size_of_the_gradients_does_not_matter(
        self, solve: Any, scaling: Scaling, factor: float
    ) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2, 8), seeds=1):
            w = solve(case.gram, scaling=scaling)
            scaled = solve(gram(factor * case.jacobian), scaling=scaling)
            torch.testing.assert_close(scaled, w, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_renaming_the_tasks_renames_the_weights(self, solve: Any) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(3, 8, 33), seeds=1):
            order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(1))
            p = some_preference(case.tasks)
            w = solve(case.gram, preference=p)[0]
            renamed = case.gram[:, order][:, :, order].contiguous()
            found = solve(renamed, preference=p[order])[0]
            torch.testing.assert_close(found, w[order], rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_a_zero_gradient_changes_nothing_for_the_others(self, solve: Any) -> None:
        for case in cases(["random", "conflict"], sizes=(2, 5)):
            p = some_preference(case.tasks + 1)
            w = solve(case.gram, preference=p[:-1])[0]
            padded = torch.cat([case.jacobian, torch.zeros_like(case.jacobian[:1])])
            found = solve(gram(padded), preference=p)[0]
            torch.testing.assert_close(found[:-1], w, rtol=1e-12, atol=0)
            assert found[-1] == p[-1]

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_conflict_of_short_gradients_is_ignored_below_norm_eps(self, solve: Any) -> None:
        case = make("conflict", 4, 0)
        trace = float(case.gram[0].trace())
        uniform = torch.full((1, 4), 0.25, dtype=torch.float64)
        assert torch.equal(solve(case.gram, norm_eps=1.001 * trace), uniform)
        kept = solve(case.gram, norm_eps=0.999 * trace)
        assert torch.equal(kept, solve(case.gram))
        assert not torch.equal(kept, uniform)

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_zero_gradients_and_no_ridge(self, solve: Any) -> None:
        zero = torch.zeros(1, 3, 3, dtype=torch.float64)
        assert torch.equal(solve(zero), torch.full((1, 3), 1 / 3, dtype=torch.float64))
        for case in cases(sizes=(2, 5, 8), seeds=1):
            assert solve(case.gram, reg_eps=0.0).isfinite().all(), str(case)

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_one_task(self, solve: Any) -> None:
        assert solve(torch.tensor([[[4.0]]], dtype=torch.float64)).item() == 1

    @pytest.mark.parametrize("scaling", ["rows", "frobenius"])
    @pytest.mark.parametrize("reg_eps", [None, 1e-6])
    @pytest.mark.parametrize("name", ["solve_upgrad", "solve_dualproj"])
    def test_against_the_definition(
        self, name: str, reg_eps: float | None, scaling: Scaling
    ) -> None:
        for case in cases(sizes=(2, 3, 6), seeds=1):
            p = some_preference(case.tasks)
            found = getattr(ops, name)(case.gram, preference=p, scaling=scaling, reg_eps=reg_eps)
            given = (case.gram, None, p, scaling == "rows", reg_eps, 0.0)
            wanted = getattr(reference, name)(*given)[0]
            assert_same(case, found[0], wanted, rtol=0.0, of_terms=2e-12)

    @pytest.mark.parametrize("rounding", [ops.EXACT, 2.0**-23])
    @pytest.mark.parametrize("solve", SOLVERS)
    def test_the_ridge_leaves_no_trace(self, solve: Any, rounding: float) -> None:
        """A short gradient beside long ones, of which less than a hundredth is left in the end."""
        generator = torch.Generator().manual_seed(0)
        seen = 0
        for _ in range(300):
            tasks = int(torch.randint(2, 9, (1,), generator=generator))
            j = torch.randn(tasks, tasks + 8, generator=generator, dtype=torch.float64)
            j -= torch.rand(1, generator=generator).double() * j.mean(dim=0)
            j /= norms(j).unsqueeze(1)
            if torch.linalg.cond(j @ j.T) > 1e3:
                continue
            j *= 10 ** (5 * torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 1.2)
            cosines = [
                (j @ d / norms(j) / d.norm()).min()
                for d in (
                    j.T @ solve(gram(j), rounding=rounding)[0],
                    j.T @ solve(gram(j), reg_eps=1e-6)[0],
                )
            ]
            assert cosines[0] >= -1e-9
            seen += bool(cosines[1] < -1e-7)
        assert seen >= 3

    @pytest.mark.parametrize("solve", SOLVERS)
    def test_64_tasks(self, solve: Any) -> None:
        for case in cases(["random", "conflict", "rank_deficient", "graded"], (33, 64), 1):
            w = solve(case.gram)[0]
            matrix = ridged(case, "rows", 1e-6)
            gains, lengths = matrix @ w, matrix.diagonal().sqrt()
            assert (w >= 1 / case.tasks).all()
            assert (gains >= -1e-12 * lengths * float(w @ lengths)).all(), str(case)


class TestUPGrad:
    def test_against_quadprog(self) -> None:
        """The ridge is 1e-4 of the trace, which quadprog can do with."""
        qpsolvers = pytest.importorskip("qpsolvers")
        for case in cases(sorted(set(FAMILIES) - {"all_zero"}), sizes=(2, 5, 8), seeds=1):
            n = case.tasks
            matrix = ridged(case, "frobenius", 1e-4) / float(case.gram[0].trace())
            wanted = torch.zeros(n, dtype=torch.float64)
            for u in torch.eye(n, dtype=torch.float64) / n:
                below = (-np.eye(n), -u.numpy())  # -v <= -u
                v = qpsolvers.solve_qp(matrix.numpy(), np.zeros(n), *below, solver="quadprog")
                wanted += torch.tensor(v)
            found = ops.solve_upgrad(case.gram, scaling="frobenius", reg_eps=1e-4)[0]
            assert_same(case, found, wanted, rtol=1e-9, of_terms=1e-10)

    def test_in_60_digits(self) -> None:
        families = ["random", "conflict", "hard_conflict", "graded", "steeply_graded"]
        for case in cases(families, sizes=(2, 5), seeds=2):
            w = ops.solve_upgrad(case.gram, reg_eps=1e-6)[0]
            truth = certified.products(case.jacobian)
            for i in range(case.tasks):
                truth[i, i] *= 1 + sixty_digits.mp.mpf(1e-6)
            exact = sixty_digits.mp.zeros(case.tasks, 1)
            for i in range(case.tasks):
                u = torch.zeros(case.tasks, dtype=torch.float64)
                u[i] = 1.0 / case.tasks
                v = ops.solve_upgrad(case.gram, preference=u, reg_eps=1e-6)[0]
                support = (v > u).nonzero().flatten().tolist()
                exact += certified.projection(truth, u.tolist(), support)
            off = sixty_digits.exact(w) - exact
            error = float((off.T * truth * off)[0]) ** 0.5
            assert error <= 1e-13 * size(case, w), str(case)

    def test_each_gradient_is_projected_on_the_cone_of_all(self) -> None:
        """The nearest vector is found by least squares on the gradients themselves."""
        optimize = pytest.importorskip("scipy.optimize")
        for case in cases(["random", "square", "conflict", "shared_direction"], (3, 6), seeds=2):
            j = case.jacobian / norms(case.jacobian).max()
            wanted = torch.zeros_like(j[0])
            for row in j / case.tasks:
                z, _ = optimize.nnls(j.T.numpy(), -row.numpy())
                wanted += row + j.T @ torch.tensor(z)
            d = j.T @ ops.solve_upgrad(case.gram, reg_eps=0.0)[0]
            torch.testing.assert_close(d, wanted, rtol=1e-8, atol=1e-10)

    def test_is_linear_under_scaling(self) -> None:
        """Multiplying a task's gradient multiplies its part of the merged gradient."""
        for case in cases([*ORDINARY, "rank_deficient", "stationary"], sizes=(2, 3, 8), seeds=2):
            generator = torch.Generator().manual_seed(case.seed)
            first, second = (
                10 ** (4 * torch.rand(2, case.tasks, 1, generator=generator) - 2).double()
            )

            def merged(factors: Tensor, case: Case = case) -> Tensor:
                j = factors * case.jacobian
                return j.T @ ops.solve_upgrad(gram(j))[0]

            terms = float(
                ops.solve_upgrad(gram((first + second) * case.jacobian))[0]
                @ norms((first + second) * case.jacobian)
            )
            off = merged(first) + merged(second) - merged(first + second)
            assert float(off.norm()) <= 1e-11 * terms, str(case)

    def test_a_ridge_of_the_trace_runs_over_a_short_gradient(self) -> None:
        j = torch.tensor([[1.0, 0.1], [-0.01, 0.003]], dtype=torch.float64)
        for scaling, least in (("rows", 0.0), ("frobenius", -0.8)):
            w = ops.solve_upgrad(gram(j), scaling=scaling, reg_eps=1e-4)[0]  # type: ignore[arg-type]
            d = j.T @ w
            cosine = float(j[1] @ d / j[1].norm() / d.norm())
            assert least <= cosine <= least + 0.1

    def test_is_linear_in_the_preference(self) -> None:
        for case in cases(["random", "conflict"], sizes=(2, 6)):
            parts = [
                ops.solve_upgrad(case.gram, preference=p) for p in torch.eye(case.tasks).double()
            ]
            whole = ops.solve_upgrad(case.gram, preference=some_preference(case.tasks))
            weighed = sum(
                p * part for p, part in zip(some_preference(case.tasks), parts, strict=True)
            )
            torch.testing.assert_close(whole, weighed)

    def test_against_the_definition_with_many_tasks(self) -> None:
        case = make("conflict", 34, 0)
        found = ops.solve_upgrad(case.gram)[0]
        wanted = reference.solve_upgrad(case.gram, None, None, True, None, 0.0)[0]
        assert_same(case, found, wanted, rtol=1e-9)


class TestDualProj:
    def test_is_the_nearest_vector_of_the_cone(self) -> None:
        optimize = pytest.importorskip("scipy.optimize")
        for case in cases(["random", "square", "conflict", "shared_direction"], (2, 6), seeds=3):
            j = case.jacobian / norms(case.jacobian).max()
            p = some_preference(case.tasks)
            z, _ = optimize.nnls(j.T.numpy(), -(j.T @ p).numpy())
            d = j.T @ ops.solve_dualproj(case.gram, preference=p, reg_eps=0.0)[0]
            torch.testing.assert_close(d, j.T @ (p + torch.tensor(z)), rtol=1e-8, atol=1e-10)

    def test_in_60_digits(self) -> None:
        for case in cases(["random", "conflict", "graded", "hard_conflict"], (2, 5, 8), seeds=2):
            w = ops.solve_dualproj(case.gram, reg_eps=0.0)[0]
            u = torch.full_like(w, 1 / case.tasks)
            truth = certified.products(case.jacobian)
            exact = certified.projection(truth, u.tolist(), (w > u).nonzero().flatten().tolist())
            off = sixty_digits.exact(w) - exact
            error = float((off.T * truth * off)[0]) ** 0.5
            assert error <= 1e-13 * size(case, w), str(case)

    def test_changes_nothing_if_the_combination_contradicts_nobody(self) -> None:
        for case in cases(sorted(set(FAMILIES) - STATIONARY), sizes=(2, 5), seeds=2):
            uniform = torch.full((case.tasks,), 1 / case.tasks, dtype=torch.float64)
            if (case.gram[0] @ uniform > 1e-9 * case.gram[0].diagonal()).all():
                assert torch.equal(ops.solve_dualproj(case.gram)[0], uniform), str(case)

"""SDMGrad and MoDo: projected steps on the simplex."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make
from torch import Tensor

from mtl_ops import ops, reference
from mtl_ops.reference.simplex import project_simplex


def shares(tasks: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(1, tasks, generator=g, dtype=torch.float64).add(0.1).log().softmax(dim=1)


def crossed(case: Any, seed: int = 1) -> Tensor:
    """``J₁J₂ᵀ`` for a second batch that differs by noise."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(case.jacobian.shape, generator=g, dtype=torch.float64)
    other = case.jacobian + case.jacobian.norm(dim=1, keepdim=True) * noise
    return (case.jacobian @ other.T).unsqueeze(0)


class TestProjection:
    """By MoDo, with a diagonal A that makes its step go to any point we like."""

    @staticmethod
    def project(y: Tensor) -> Tensor:
        # A = -diag(y) / γ on the uniform state: λ - γ Aλ = 1/T + y/T.
        tasks = len(y)
        state = torch.full((1, tasks), 1.0 / tasks, dtype=torch.float64)
        a = torch.diag(-y).unsqueeze(0)
        return ops.solve_modo(a, state=state, gamma=1.0, rho=0.0)[0]

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e6, 1e17, 1e30])
    def test_is_the_nearest_point(self, scale: float) -> None:
        g = torch.Generator().manual_seed(0)
        for tasks in (1, 2, 3, 8, 17, 64):
            for _ in range(20):
                y = scale * torch.randn(tasks, generator=g, dtype=torch.float64)
                x = self.project(y)
                target = (1 + y) / tasks
                assert (x >= 0).all()
                assert x.sum() == pytest.approx(1, abs=1e-14 * tasks)
                # x = max(target - θ, 0) for some θ
                kept = x > 0
                theta = (target - x)[kept]
                slack = 1e-15 * float(target.abs().max()) * tasks + 1e-15
                assert theta.max() - theta.min() <= slack
                assert (target[~kept] <= theta.min() + slack).all()

    def test_agrees_with_sorting(self) -> None:
        g = torch.Generator().manual_seed(1)
        for tasks in (1, 2, 5, 33):
            for _ in range(50):
                y = 3 * torch.randn(tasks, generator=g, dtype=torch.float64)
                assert torch.allclose(self.project(y), project_simplex((1 + y) / tasks), atol=1e-15)

    def test_where_the_one_would_be_lost(self) -> None:
        y = torch.tensor([3e17, -1e17, 2e17], dtype=torch.float64)
        assert self.project(y).tolist() == [1, 0, 0]


class TestAgainstTheDefinition:
    def test_sdmgrad(self) -> None:
        for case in cases(sizes=(1, 2, 5, 8), seeds=2):
            for a in (case.gram, crossed(case)):
                first, second = shares(case.tasks), shares(case.tasks)
                p = torch.linspace(0.5, 1.5, case.tasks, dtype=torch.float64)
                p /= p.sum()
                found = ops.solve_sdmgrad(a, state=first, preference=p, lr=0.3, lam=0.4)
                wanted = reference.solve_sdmgrad(a, None, second, p, 0.3, 0.5, 20, 0.4)
                assert torch.allclose(found, wanted, atol=1e-11), str(case)
                assert torch.allclose(first, second, atol=1e-11)

    def test_modo(self) -> None:
        for case in cases(sizes=(1, 2, 5, 8), seeds=2):
            a = crossed(case)
            a = a / a.abs().max().clamp(min=1e-300)
            first, second = shares(case.tasks), shares(case.tasks)
            found = ops.solve_modo(a, state=first, gamma=0.5, rho=0.2)
            assert torch.allclose(found, reference.solve_modo(a, None, second, 0.5, 0.2))
            assert torch.allclose(first, second, atol=1e-14)
            assert torch.equal(found, first)

    def test_64_tasks(self) -> None:
        case = make("random", 64, 0)
        first, second = shares(64), shares(64)
        found = ops.solve_sdmgrad(crossed(case), state=first)
        wanted = reference.solve_sdmgrad(crossed(case), None, second, None, 10.0, 0.5, 20, 0.3)
        assert torch.allclose(found, wanted, atol=1e-9)


class TestSDMGrad:
    def test_converges_to_the_least_norm_without_a_pull(self) -> None:
        for case in cases(["conflict", "shared_direction"], sizes=(2, 3), seeds=3):
            state = shares(case.tasks)
            for _ in range(300):
                w = ops.solve_sdmgrad(case.gram, state=state, lr=0.2, lam=0.0)
            wanted = case.jacobian.T @ ops.solve_mgda(case.gram)[0]
            assert (case.jacobian.T @ w[0] - wanted).norm() <= 1e-6 * wanted.norm()

    def test_the_size_of_the_gradients_does_not_matter(self) -> None:
        case = make("conflict", 4, 0)
        wanted = ops.solve_sdmgrad(case.gram, state=shares(4))
        for factor in (1e-12, 1e-5, 1e9):
            found = ops.solve_sdmgrad(factor * case.gram, state=shares(4))
            assert torch.allclose(found, wanted, atol=1e-12)

    def test_without_a_positive_product_the_weights_stay(self) -> None:
        a = -torch.ones(1, 3, 3, dtype=torch.float64)
        state = shares(3)
        w = ops.solve_sdmgrad(a, state=state, lam=0.5)
        assert torch.equal(state, shares(3))
        assert torch.allclose(w, (state + 0.5 / 3) / 1.5)

    def test_a_mixed_sign_problem_stays_on_the_simplex(self) -> None:
        for case in cases(["random"], sizes=(2, 4, 9), seeds=10):
            g = torch.Generator().manual_seed(case.seed)
            a = torch.randn(1, case.tasks, case.tasks, generator=g, dtype=torch.float64)
            state = shares(case.tasks)
            w = ops.solve_sdmgrad(1e9 * a, state=state)
            for x in (w, state):
                assert (x >= 0).all()
                assert float(x.sum()) == pytest.approx(1, abs=1e-13)


class TestMemory:
    """Tasks that take no part keep their share; the others divide what is theirs."""

    SCALE = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    KEPT = (0, 2, 3)

    def solvers(self) -> list[Any]:
        return [
            lambda a, scale, state: ops.solve_modo(a, scale, state=state, gamma=0.05),
            lambda a, scale, state: ops.solve_sdmgrad(a, scale, state=state, lr=0.3),
        ]

    def test_shares(self) -> None:
        a = crossed(make("random", 4, 0))
        for solve in self.solvers():
            state, before = shares(4), shares(4)
            w = solve(a, self.SCALE, state)
            assert state[0, 1] == before[0, 1]
            assert float(state.sum()) == pytest.approx(1, abs=1e-15)
            share = float(before[0, self.KEPT].sum())
            smaller = before[:, self.KEPT] / share
            wanted = solve(a[:, self.KEPT][:, :, self.KEPT].contiguous(), None, smaller)
            assert torch.allclose(w[:, self.KEPT], wanted, rtol=1e-14)
            assert torch.allclose(state[:, self.KEPT], smaller * share, rtol=1e-14)
            assert w[0, 1] == 0

    def test_tasks_without_a_share_start_from_the_same_weights(self) -> None:
        a = crossed(make("random", 4, 0))
        for solve in self.solvers():
            state = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
            w = solve(a, self.SCALE, state)
            even = torch.full((1, 3), 1 / 3, dtype=torch.float64)
            wanted = solve(a[:, self.KEPT][:, :, self.KEPT].contiguous(), None, even)
            assert torch.allclose(w[:, self.KEPT], wanted, rtol=1e-14)
            assert state.tolist() == [[0, 1, 0, 0]]

    def test_a_problem_that_is_not_finite_changes_nothing(self) -> None:
        a = crossed(make("random", 4, 0))
        a[0, 2, 3] = torch.nan
        for solve in self.solvers():
            state = shares(4)
            assert solve(a, None, state).isnan().all()
            assert torch.equal(state, shares(4))

    def test_segments_have_their_own(self) -> None:
        a = torch.cat([crossed(make("random", 4, seed)) for seed in range(3)])
        for solve in self.solvers():
            states = torch.cat([shares(4, seed) for seed in range(3)])
            w = solve(a, None, states)
            for s in range(3):
                alone = shares(4, s)
                assert torch.equal(solve(a[s : s + 1].contiguous(), None, alone), w[s : s + 1])
                assert torch.equal(alone[0], states[s])

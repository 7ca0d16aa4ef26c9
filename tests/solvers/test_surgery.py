"""PCGrad and GradVac."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import STATIONARY, Case, cases, make, norms
from merged import assert_same, size
from naive import pcgrad as on_vectors
from torch import Tensor

from mtl_ops import ops, reference


def some_orders(tasks: int, seed: int = 0, segments: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(segments, tasks, tasks, generator=generator).argsort(dim=-1)


def some_cosines(tasks: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.8 * torch.rand(1, tasks, tasks, generator=generator, dtype=torch.float64) - 0.9


class TestPCGrad:
    def test_is_the_paper_s_algorithm_on_the_gradients_themselves(self) -> None:
        for case in cases(seeds=2):
            orders = some_orders(case.tasks, case.seed)
            w = ops.solve_pcgrad(case.gram, orders=orders)[0]
            wanted = on_vectors(orders[0].tolist())(case.jacobian, range(case.tasks))
            off = (case.jacobian.T @ w - wanted).norm()
            assert off <= 1e-12 * size(case, w), str(case)

    @pytest.mark.parametrize("mean", [False, True])
    def test_against_the_definition(self, mean: bool) -> None:
        for case in cases(sizes=(2, 3, 7, 16), seeds=1):
            orders = some_orders(case.tasks, case.seed)
            found = ops.solve_pcgrad(case.gram, orders=orders, mean=mean)[0]
            wanted = reference.solve_pcgrad(case.gram, None, orders, mean)[0]
            assert_same(case, found, wanted, rtol=0.0, of_terms=1e-13)

    def test_64_tasks(self) -> None:
        for case in cases(["random", "conflict", "ternary"], (64,), 1):
            orders = some_orders(64)
            found = ops.solve_pcgrad(case.gram, orders=orders)[0]
            wanted = reference.solve_pcgrad(case.gram, None, orders, False)[0]
            assert_same(case, found, wanted, rtol=0.0, of_terms=1e-13)

    def test_the_mean_is_a_share_of_the_sum(self) -> None:
        case = make("conflict", 5, 0)
        orders = some_orders(5)
        summed = ops.solve_pcgrad(case.gram, orders=orders)
        torch.testing.assert_close(
            ops.solve_pcgrad(case.gram, orders=orders, mean=True), summed / 5
        )

    def test_two_tasks_do_not_conflict_afterwards(self) -> None:
        for case in cases(sizes=(2,), seeds=5):
            w = ops.solve_pcgrad(case.gram, orders=some_orders(2))[0]
            gain = case.gram[0] @ w
            assert (gain >= -1e-13 * norms(case.jacobian) * size(case, w)).all(), str(case)

    def test_without_conflict_nothing_changes(self) -> None:
        for case in cases(["nonnegative", "orthogonal"], sizes=(1, 2, 9, 40)):
            w = ops.solve_pcgrad(case.gram, orders=some_orders(case.tasks))
            assert torch.equal(w, torch.ones_like(w))

    def test_renaming_the_tasks_renames_the_weights(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(3, 8)):
            order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(1))
            orders = some_orders(case.tasks, case.seed)
            w = ops.solve_pcgrad(case.gram, orders=orders)[0]
            renamed = order.argsort()[orders[:, order]]
            found = ops.solve_pcgrad(case.gram[:, order][:, :, order], orders=renamed)[0]
            torch.testing.assert_close(found, w[order], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("factor", [1e-15, 1e-3, 1e15])
    def test_the_size_of_the_gradients_does_not_matter(self, factor: float) -> None:
        for case in cases(["random", "conflict"], sizes=(2, 8)):
            orders = some_orders(case.tasks)
            w = ops.solve_pcgrad(case.gram, orders=orders)
            found = ops.solve_pcgrad(factor**2 * case.gram, orders=orders)
            torch.testing.assert_close(found, w, rtol=1e-12, atol=1e-12)

    def test_the_order_matters(self) -> None:
        case = make("conflict", 4, 0)
        first, second = (ops.solve_pcgrad(case.gram, orders=some_orders(4, s)) for s in (0, 1))
        assert not torch.allclose(first, second)

    def test_whoever_is_no_other_task_is_passed_over(self) -> None:
        case = make("conflict", 4, 0)
        orders = torch.tensor([[3, 1, 2], [0, 3, 2], [1, 0, 3], [2, 0, 1]]).unsqueeze(0)
        names = torch.tensor([-1, 4, 2**40, -(2**40)])
        noisy = torch.cat([torch.arange(4).reshape(1, 4, 1), orders], dim=2)
        noisy = torch.cat([noisy, names.expand(1, 4, 4)], dim=2).contiguous()
        w = ops.solve_pcgrad(case.gram, orders=orders)
        assert torch.equal(ops.solve_pcgrad(case.gram, orders=noisy), w)
        assert torch.equal(
            reference.solve_pcgrad(case.gram, None, noisy, False),
            reference.solve_pcgrad(case.gram, None, orders, False),
        )

    def test_tasks_that_are_not_named_correct_nobody(self) -> None:
        case = make("near_opposite", 4, 0)
        nobody = torch.full((1, 4, 1), -1)
        w = ops.solve_pcgrad(case.gram, orders=nobody)
        assert torch.equal(w, torch.ones_like(w))


def vaccinated(case: Case, orders: Tensor, rho: Tensor, beta: float) -> Tensor:
    """The paper's algorithm on the gradients themselves; changes ``rho``."""
    merged = torch.zeros_like(case.jacobian[0])
    for i, order in enumerate(orders.tolist()):
        g = case.jacobian[i].clone()
        for j in order:
            other = case.jacobian[j]
            if i == j or other.norm() == 0 or g.norm() == 0:
                if i != j:
                    rho[i, j] *= 1 - beta
                continue
            cosine = float(g @ other / (g.norm() * other.norm()))
            goal = float(rho[i, j])
            if cosine < goal:
                sine, goal_sine = math.sqrt(1 - cosine**2), math.sqrt(1 - goal**2)
                step = g.norm() * (goal * sine - cosine * goal_sine) / (other.norm() * goal_sine)
                g = g + step * other
            rho[i, j] = (1 - beta) * goal + beta * cosine
        merged += g
    return merged


class TestGradVac:
    def test_is_the_paper_s_algorithm_on_the_gradients_themselves(self) -> None:
        ordinary = [
            "random",
            "square",
            "shared_direction",
            "conflict",
            "zero_row",
            "graded",
            "tiny",
        ]
        for case in cases(ordinary, sizes=(1, 2, 3, 8), seeds=3):
            orders, rho = some_orders(case.tasks, case.seed), some_cosines(case.tasks, case.seed)
            expected_rho = rho[0].clone()
            wanted = vaccinated(case, orders[0], expected_rho, beta=0.3)
            w = ops.solve_gradvac(case.gram, orders=orders, rho=rho, beta=0.3, tol=0.0)[0]
            off = (case.jacobian.T @ w - wanted).norm()
            assert off <= 1e-11 * size(case, w), str(case)
            torch.testing.assert_close(rho[0], expected_rho, rtol=0, atol=1e-11)

    def test_against_the_definition(self) -> None:
        # Where a corrected gradient vanishes, its cosine is what rounding leaves of it.
        for case in cases(sizes=(2, 3, 7), seeds=2):
            if case.family in STATIONARY and case.family != "all_zero":
                continue
            orders, rho = some_orders(case.tasks, case.seed), some_cosines(case.tasks, case.seed)
            expected_rho = rho.clone()
            found = ops.solve_gradvac(case.gram, orders=orders, rho=rho, eps=1e-8)[0]
            wanted = reference.solve_gradvac(case.gram, None, orders, expected_rho, 0.5, 1e-8, 1e-9)
            assert_same(case, found, wanted[0], rtol=0.0, of_terms=1e-11)
            torch.testing.assert_close(rho, expected_rho, rtol=0, atol=1e-9)

    def test_the_cosine_afterwards_is_the_mean_so_far(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2,), seeds=5):
            goal = 0.9
            rho = torch.tensor([[[0.0, goal], [-1.0, 0.0]]], dtype=torch.float64)
            w = ops.solve_gradvac(case.gram, orders=some_orders(2), rho=rho)[0]
            first = case.jacobian.T @ (w - torch.tensor([0.0, 1.0]))  # the second is left alone
            other = case.jacobian[1]
            assert float(first @ other / first.norm() / other.norm()) == pytest.approx(goal)

    def test_cosines_stay_cosines(self) -> None:
        for case in cases(sizes=(2, 5), seeds=1):
            rho = torch.zeros_like(case.gram)
            for step in range(20):
                w = ops.solve_gradvac(
                    case.gram, orders=some_orders(case.tasks, step), rho=rho, beta=0.9
                )
                assert w.isfinite().all(), str(case)
                assert (rho.abs() <= 1).all(), str(case)

    def test_equal_tasks_are_left_alone(self) -> None:
        generator = torch.Generator().manual_seed(0)
        g = torch.randn(20, generator=generator, dtype=torch.float64)
        rho = torch.zeros(1, 2, 2, dtype=torch.float64)
        for step in range(200):
            noise = 1e-9 * torch.randn(2, 20, generator=generator, dtype=torch.float64)
            j = g * (1 + step % 7) + noise
            w = ops.solve_gradvac((j @ j.T).unsqueeze(0), orders=some_orders(2), rho=rho)
            assert torch.equal(w, torch.ones_like(w))

    def test_beta_one_remembers_the_last_cosine_alone(self) -> None:
        case = make("random", 2, 0)
        rho = torch.full((1, 2, 2), -1.0, dtype=torch.float64)
        ops.solve_gradvac(case.gram, orders=some_orders(2), rho=rho, beta=1.0)
        n = norms(case.jacobian)
        cosine = case.gram[0, 0, 1] / (n[0] * n[1])
        torch.testing.assert_close(rho[0, 0, 1], cosine)
        torch.testing.assert_close(rho[0, 1, 0], cosine)

    def test_eps_hides_the_conflict_of_short_gradients(self) -> None:
        gram = 1e-10 * torch.tensor([[[1.0, -0.5], [-0.5, 1.0]]], dtype=torch.float64)
        for eps, seen in ((0.0, -0.5), (1e-10, -0.25)):
            rho = torch.full((1, 2, 2), -1.0, dtype=torch.float64)
            ops.solve_gradvac(gram, orders=some_orders(2), rho=rho, beta=1.0, eps=eps)
            assert float(rho[0, 0, 1]) == pytest.approx(seen)

    def test_one_task(self) -> None:
        gram = torch.tensor([[[4.0]]], dtype=torch.float64)
        rho = torch.zeros(1, 1, 1, dtype=torch.float64)
        assert ops.solve_gradvac(gram, orders=some_orders(1), rho=rho).item() == 1

    @pytest.mark.parametrize("solve", [ops.solve_gradvac, reference.solve_gradvac])
    def test_a_problem_that_is_not_finite_changes_nothing(self, solve) -> None:
        rho = some_cosines(3)
        before = rho.clone()
        gram = make("random", 3, 0).gram.clone()
        gram[0, 1, 2] = torch.inf
        rest = {"orders": some_orders(3), "rho": rho, "beta": 0.5, "eps": 0.0, "tol": 0.0}
        assert solve(gram, None, **rest).isnan().all()
        assert torch.equal(rho, before)

    @pytest.mark.parametrize("solve", [ops.solve_gradvac, reference.solve_gradvac])
    def test_pairs_with_a_task_that_takes_no_part_keep_theirs(self, solve) -> None:
        rho = some_cosines(3)
        before = rho.clone()
        scale = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
        rest = {"orders": some_orders(3), "rho": rho, "beta": 0.5, "eps": 0.0, "tol": 0.0}
        solve(make("random", 3, 0).gram, scale, **rest)
        changed = rho[0] != before[0]
        assert changed.tolist() == [[False, False, True], [False] * 3, [True, False, False]]


def among(kept: Tensor, orders: Tensor) -> Tensor:
    """Orders of the tasks that are kept, by their new names."""
    names = torch.where(kept, kept.cumsum(dim=0) - 1, -1)
    return names[orders][:, kept].contiguous()


class TestContract:
    """Of solvers with orders; the others' is in ``test_contract.py``."""

    def test_a_task_left_out_is_a_smaller_problem_to_the_last_bit(self) -> None:
        for case in cases(sizes=(5, 9), seeds=1):
            kept = torch.arange(case.tasks) % 3 != 1
            scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64).unsqueeze(0)
            orders, rho = some_orders(case.tasks), some_cosines(case.tasks)
            part = case.gram[:, kept][:, :, kept].contiguous()
            smaller = {"orders": among(kept, orders), "scale": scale[:, kept].contiguous()}
            masked = torch.where(kept, scale, 0.0)

            found = ops.solve_pcgrad(case.gram, masked, orders=orders)
            assert torch.equal(found[:, kept], ops.solve_pcgrad(part, **smaller)), str(case)
            assert not found[:, ~kept].any()

            rest = rho[:, kept][:, :, kept].contiguous()
            found = ops.solve_gradvac(case.gram, masked, orders=orders, rho=rho)
            wanted = ops.solve_gradvac(part, **smaller, rho=rest)
            assert torch.equal(found[:, kept], wanted), str(case)
            assert torch.equal(rho[:, kept][:, :, kept], rest), str(case)
            assert not found[:, ~kept].any()

    def test_a_scale_is_a_scaled_gradient(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2, 6), seeds=2):
            scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
            scaled = (scale.unsqueeze(1) * case.gram * scale).contiguous()
            orders, rho = some_orders(case.tasks), some_cosines(case.tasks)
            for solve, memory in ((ops.solve_pcgrad, {}), (ops.solve_gradvac, {"rho": rho})):
                copies = {name: tensor.clone() for name, tensor in memory.items()}
                found = solve(case.gram, scale.unsqueeze(0), orders=orders, **memory)  # type: ignore[operator]
                wanted = scale * solve(scaled, orders=orders, **copies)  # type: ignore[operator]
                torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)

    def test_segments_are_problems_of_their_own(self) -> None:
        chosen = list(cases(["random", "conflict", "graded"], sizes=(6,), seeds=2))
        grams = torch.cat([case.gram for case in chosen])
        orders = some_orders(6, segments=len(chosen))
        rho = some_cosines(6).expand(len(chosen), 6, 6).clone()
        alone = rho.clone()
        projected = ops.solve_pcgrad(grams, orders=orders)
        turned = ops.solve_gradvac(grams, orders=orders, rho=rho)
        for s in range(len(chosen)):
            part = slice(s, s + 1)
            one = {"orders": orders[part].contiguous()}
            assert torch.equal(projected[part], ops.solve_pcgrad(grams[part], **one))
            assert torch.equal(turned[part], ops.solve_gradvac(grams[part], **one, rho=alone[part]))
        assert torch.equal(rho, alone)

    def test_kernels_check_what_they_get(self) -> None:
        gram, orders = torch.eye(3, dtype=torch.float64).unsqueeze(0), some_orders(3)
        rho = some_cosines(3)
        for bad in (orders[0], orders[:, :2], orders.to(torch.int32), orders.transpose(1, 2)):
            with pytest.raises(RuntimeError, match="orders should be"):
                ops.solve_pcgrad(gram, orders=bad)
        with pytest.raises(RuntimeError, match="state should be"):
            ops.solve_gradvac(gram, orders=orders, rho=rho[:, :2].contiguous())
        with pytest.raises(RuntimeError, match="state should be"):
            ops.solve_gradvac(gram, orders=orders, rho=rho.float())


class TestOnlinePcGrad:
    def test_one_gradient_after_the_other(self) -> None:
        for case in cases(sizes=(1, 2, 3, 8), seeds=2):
            order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(case.seed))
            w = ops.solve_online_pcgrad(case.gram, order=order.unsqueeze(0))[0]
            total = torch.zeros_like(case.jacobian[0])
            for i in order.tolist():
                g, before = case.jacobian[i], total
                inner = g @ total
                if inner < 0:
                    total = total - inner / (total @ total) * total
                total = total + g
                gain = float(total @ before - before @ before)
                assert gain >= -1e-9 * float(before.norm()) * float(before.norm() + g.norm())
            off = float((case.jacobian.T @ w - total).norm())
            if (
                case.family not in STATIONARY
            ):  # where the sum so far is rounding, so is its direction
                assert off <= 1e-7 * size(case, w), str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(sizes=(2, 3, 6), seeds=1):
            order = torch.arange(case.tasks).flip(0).unsqueeze(0)
            w = ops.solve_online_pcgrad(case.gram, order=order)[0]
            v = reference.solve_online_pcgrad(case.gram, None, order)[0]
            if case.family not in STATIONARY:
                assert_same(case, w, v, rtol=1e-8, of_terms=1e-10)

    def test_without_conflict_it_is_the_sum(self) -> None:
        case = make("nonnegative", 5, 0)
        found = ops.solve_online_pcgrad(case.gram, order=torch.arange(5).unsqueeze(0))
        assert found[0].tolist() == [1] * 5

    def test_whoever_is_no_task_is_passed_over(self) -> None:
        gram = make("random", 3, 0).gram
        scale = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        found = ops.solve_online_pcgrad(gram, scale, order=torch.tensor([[7, 2, 1]]))
        assert found[0].tolist() == [0, 0, 1]

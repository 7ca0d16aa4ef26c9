"""EPO, PMGDA and FERERO: what they guarantee on every matrix, and their definitions."""

from __future__ import annotations

import pytest
import torch
from matrices import FAMILIES, Case, cases, make, norms
from merged import size
from torch import Tensor

from mtl_ops import ops, reference
from mtl_ops.reference.linear_program import largest_on_simplex

from . import sixty_digits

EVERYWHERE = sorted(FAMILIES)
GRADED = ["graded", "steeply_graded", "graded_conflict"]
SOUND = ["random", "square", "shared_direction", "conflict", "sparse", "nonnegative"]


def wishes(case: Case) -> tuple[Tensor, Tensor]:
    """Losses and preferences."""
    g = torch.Generator().manual_seed(case.seed + case.tasks)
    losses = torch.randn(case.tasks, generator=g, dtype=torch.float64).exp()
    return losses, 0.2 + torch.rand(case.tasks, generator=g, dtype=torch.float64)


def ascent(losses: Tensor, preference: Tensor) -> tuple[Tensor, Tensor]:
    shares = preference * losses / (preference @ losses)
    unevenness = (shares * (len(losses) * shares).log()).sum()
    return unevenness, preference * ((len(losses) * shares).log() - unevenness)


class TestEpo:
    def test_no_task_loses_that_must_not(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 8), seeds=2):
            gram, (losses, r) = case.gram[0], wishes(case)
            longest = float(gram.diagonal().max())
            for values in (losses, 1 / r, (1 + 1e-3 * losses) / r):
                w = ops.solve_epo(case.gram, losses=values, preference=r)[0]
                assert (w >= 0).all(), str(case)
                assert float(w.sum()) == pytest.approx(1.0, rel=1e-12)
                unevenness, a = ascent(values, r)
                gains = gram @ w
                if unevenness <= 1e-4 or not (gram @ a > 0).any():
                    kept = torch.ones_like(r, dtype=torch.bool)
                else:
                    kept = r * values == (r * values).max()
                assert float(gains[kept].min()) >= -1e-9 * longest, str(case)
                if unevenness > 1e-4 and longest > 0:  # MGDA's weights are allowed, too
                    rival = ops.solve_mgda(case.gram)[0]
                    better = float(a @ gram @ (rival - w))
                    assert better <= 1e-8 * float((gram @ a).abs().max()), str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(EVERYWHERE, sizes=(3, 5), seeds=1):
            losses, r = wishes(case)
            for values, relax in ((losses, False), (1 / r, True), (1 / r + 1e-3 * losses, False)):
                w = ops.solve_epo(case.gram, losses=values, preference=r, relax=relax)[0]
                v = reference.solve_epo(case.gram, None, values, r, 1e-4, relax)[0]
                unevenness, a = ascent(values, r)
                goal = case.gram[0] @ a if unevenness > 1e-4 else case.gram[0].sum(dim=0)
                off = float((goal @ (w - v)).abs())  # corners may be equally good
                assert off <= 1e-9 * float(goal.abs().max()), str(case)
                if case.family in SOUND:
                    torch.testing.assert_close(w, v, rtol=0, atol=1e-8, msg=str(case))

    def test_where_no_vector_keeps_the_balance_it_is_mgda(self) -> None:
        for family, tasks, seed in (("square", 3, 3), ("graded", 5, 0), ("near_opposite", 3, 8)):
            case = make(family, tasks, seed)
            losses, r = wishes(case)
            values = 1 / r + 1e-3 * losses
            _, a = ascent(values, r)
            gram = case.gram[0] / case.gram.max()
            rows = torch.cat([gram, (gram @ a).unsqueeze(0)])
            nothing = torch.zeros(tasks + 1, dtype=torch.float64)
            assert largest_on_simplex(gram.sum(dim=0), rows, nothing) is None, str(case)
            w = ops.solve_epo(case.gram, losses=values, preference=r)
            torch.testing.assert_close(w, ops.solve_mgda(case.gram), rtol=1e-9, atol=1e-12)

    def test_no_better_corner_by_another_program(self) -> None:
        optimize = pytest.importorskip("scipy.optimize")
        for case in cases(SOUND, sizes=(3, 6), seeds=1):
            losses, r = wishes(case)
            gram = case.gram[0] / case.gram.max()
            _, a = ascent(losses, r)
            change = gram @ a
            worst = r * losses == (r * losses).max()
            if not (change > 0).any():
                worst[:] = True
            bound = worst | (change <= 0)
            least = torch.where(worst, 0.0, change)[bound]
            found = optimize.linprog(
                -change.numpy(),
                A_ub=-gram[bound].numpy(),
                b_ub=-least.numpy(),
                A_eq=torch.ones(1, case.tasks).numpy(),
                b_eq=[1.0],
            )
            w = ops.solve_epo(case.gram, losses=losses, preference=r)[0]
            assert float(change @ w) == pytest.approx(-found.fun, abs=1e-9), str(case)

    def test_known_answers(self) -> None:
        gram = torch.eye(2, dtype=torch.float64).unsqueeze(0)
        uneven = torch.tensor([1.0, 3.0], dtype=torch.float64)
        assert ops.solve_epo(gram, losses=uneven)[0].tolist() == [0, 1]
        assert ops.solve_epo(gram, losses=torch.zeros(2, dtype=torch.float64))[0].sum() == 1
        assert ops.solve_epo(gram, losses=-uneven)[0].isnan().all()
        assert ops.solve_epo(0 * gram, losses=uneven)[0].tolist() == [0.5, 0.5]


class TestPmgda:
    def test_the_distance_from_the_ray_falls(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 8), seeds=2):
            losses, r = wishes(case)
            w = ops.solve_pmgda(case.gram, losses=losses, preference=r)[0]
            assert w.isfinite().all(), str(case)
            ray = r / r.norm()
            y = losses - (losses @ ray) * ray
            slope = case.jacobian.T @ (y / y.norm())
            length = float(slope.norm())
            if length <= 1e-4 * float(norms(case.jacobian).max()):
                continue
            rate = float(slope @ (case.jacobian.T @ w)) / length
            assert rate >= 0.95 - 1e-9 * max(1.0, size(case, w)), str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 6), seeds=1):
            losses, r = wishes(case)
            w = ops.solve_pmgda(case.gram, losses=losses, preference=r)[0]
            v = reference.solve_pmgda(case.gram, None, losses, r, 1e-2, 0.95)[0]
            least, other = ((case.gram[0] @ x).min() for x in (w, v))
            longest = float(norms(case.jacobian).max())
            assert float((least - other).abs()) <= 1e-7 * max(longest, 1e-300), str(case)
            if case.family in SOUND:
                torch.testing.assert_close(w, v, rtol=1e-7, atol=1e-9, msg=str(case))

    def test_in_sixty_digits(self) -> None:
        """Short gradients are not lost beside long ones: what counts is what the program's corner is."""
        for case in cases(GRADED, sizes=(2, 3), seeds=1):
            losses, r = wishes(case)
            w = ops.solve_pmgda(case.gram, losses=losses, preference=r)[0]
            truth = sixty_digits.pmgda(case.gram[0], losses, r, 0.95)
            assert sixty_digits.relative_error(case.gram[0], w, truth) <= 1e-9, str(case)

    def test_on_the_ray_it_is_mgda(self) -> None:
        for case in cases(SOUND, sizes=(3,), seeds=2):
            _, r = wishes(case)
            w = ops.solve_pmgda(case.gram, losses=3.0 * r, preference=r)
            torch.testing.assert_close(w, ops.solve_mgda(case.gram), rtol=0, atol=0)


class TestFerero:
    def test_lies_where_a_vector_of_the_simplex_can(self) -> None:
        for case in cases(EVERYWHERE, sizes=(1, 2, 3, 8), seeds=2):
            losses, r = wishes(case)
            for kappa in (0.0, 1.0, 1e3):
                w = ops.solve_ferero(case.gram, losses=losses, preference=r, kappa=kappa)[0]
                assert w.isfinite().all(), str(case)
                off = 1e-9 * max(1.0, float(w.abs() @ r))
                assert r.min() - off <= r @ w <= r.max() + off, str(case)

    def test_is_the_least(self) -> None:
        """Of λ on the simplex and q ⟂ r: no neighbour is lower."""
        for case in cases([*SOUND, *GRADED, "dominated"], sizes=(2, 3, 8), seeds=2):
            gram, (losses, r) = case.gram[0], wishes(case)
            unit = r / r.norm()
            w = ops.solve_ferero(case.gram, losses=losses, preference=r, kappa=0.5)[0]
            rho = float(unit @ w)
            assert unit.min() - 1e-9 <= rho <= unit.max() + 1e-9, str(case)
            pull = 0.5 * (losses - (losses @ unit) * unit)

            def cost(
                rho: float,
                w: Tensor,
                gram: Tensor = gram,
                unit: Tensor = unit,
                pull: Tensor = pull,
            ) -> float:
                # the best λ with this ρ is a mixture of two tasks
                low = [
                    float(pull[i] + (rho - unit[i]) / (unit[j] - unit[i]) * (pull[j] - pull[i]))
                    for i in range(len(unit))
                    for j in range(len(unit))
                    if unit[i] <= rho <= unit[j] and unit[i] < unit[j]
                ]
                return float(0.5 * w @ gram @ w - pull @ w) + min(low)

            rho = min(max(rho, float(unit.min())), float(unit.max()))
            best = cost(rho, w)
            g = torch.Generator().manual_seed(1)
            for width in (1e-3, 1e-1, 1.0):
                for _ in range(5):
                    moved = w + width * torch.randn(len(w), generator=g, dtype=torch.float64)
                    there = float(unit @ moved)
                    if unit.min() <= there <= unit.max():
                        assert cost(there, moved) >= best - 1e-9 * (1 + abs(best)), str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 6), seeds=1):
            losses, r = wishes(case)
            w = ops.solve_ferero(case.gram, losses=losses, preference=r)[0]
            v = reference.solve_ferero(case.gram, None, losses, r, 1.0, ops.EXACT)[0]
            assert w.isfinite().all(), str(case)
            if case.family in SOUND:
                torch.testing.assert_close(w, v, rtol=1e-7, atol=1e-9, msg=str(case))

    def test_in_sixty_digits(self) -> None:
        """A preference is no reason to take short gradients for the rounding of long ones."""
        for case in cases([*GRADED, "random", "conflict"], sizes=(2, 4), seeds=2):
            losses, r = wishes(case)
            w = ops.solve_ferero(case.gram, losses=losses, preference=r)[0]
            truth = sixty_digits.ferero(case.gram[0], losses, r)
            assert sixty_digits.relative_error(case.gram[0], w, truth) <= 1e-12, str(case)

    def test_equal_preferences_without_pull(self) -> None:
        """Then w is the shortest of all with Σw = 1, signs ignored."""
        for case in cases(["random", "conflict"], sizes=(3,), seeds=2):
            w = ops.solve_ferero(case.gram, losses=torch.ones(3, dtype=torch.float64))[0]
            wanted = torch.linalg.solve(case.gram[0], torch.ones(3, dtype=torch.float64))
            torch.testing.assert_close(w, wanted / wanted.sum(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["solve_epo", "solve_pmgda", "solve_ferero"])
def test_losses(name: str) -> None:
    gram = next(cases(["random"], sizes=(3,), seeds=1)).gram
    losses = torch.tensor([1.0, torch.nan, 2.0], dtype=torch.float64)
    solve = getattr(ops, name)
    assert solve(gram, losses=losses)[0].isnan().all()
    w = solve(gram, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64), losses=losses)[0]
    assert w[1] == 0
    assert w.isfinite().all()
    with pytest.raises(RuntimeError, match="losses should be contiguous, float64, of 3 elements"):
        solve(gram, losses=losses[:2])


def test_the_definition_s_programs_against_all_corners() -> None:
    g = torch.Generator().manual_seed(0)
    infeasible = 0
    for _ in range(40):
        a = torch.randn(2, 3, generator=g, dtype=torch.float64)
        b, c = (torch.randn(n, generator=g, dtype=torch.float64) * 0.5 for n in (2, 3))
        found = largest_on_simplex(c, a, b)
        grid = torch.tensor([[i, j, 60 - i - j] for i in range(61) for j in range(61 - i)]) / 60.0
        grid = grid.double()
        allowed = grid[(grid @ a.T >= b).all(dim=1)]
        if found is None:
            infeasible += 1
            assert len(allowed) == 0
            continue
        assert (a @ found >= b - 1e-9).all()
        assert len(allowed) == 0 or float(c @ found) >= float((allowed @ c).max()) - 1e-12
    assert 0 < infeasible < 40

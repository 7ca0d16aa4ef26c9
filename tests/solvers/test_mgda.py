"""MGDA, exact and by Frank and Wolfe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, make, norms
from merged import assert_same, length, size
from naive import mgda as over_all_faces
from torch import Tensor

from mtl_ops import ops, reference

from . import certified, sixty_digits

EVERYWHERE = sorted(FAMILIES)
DESCENT = sorted(set(FAMILIES) - STATIONARY)


def optimality(case: Case, w: Tensor) -> float:
    """``max_i (|d|² - <g_i, d>)_+ / (|g_i| Σ w_k |g_k|)``, 0 for the point of least norm."""
    d = case.jacobian.T @ w
    lengths = norms(case.jacobian)
    terms = lengths.clamp(min=1e-300) * float(w @ lengths)
    return float(((d @ d - case.jacobian @ d).clamp(min=0) / terms.clamp(min=1e-300)).max())


class TestExact:
    def test_is_the_point_of_least_norm(self) -> None:
        for case in cases(EVERYWHERE, sizes=(1, 2, 3, 5, 8, 16), seeds=3):
            w = ops.solve_mgda(case.gram)[0]
            assert (w >= 0).all(), str(case)
            assert float(w.sum()) == pytest.approx(1, rel=1e-14), str(case)
            if case.family in ("near_opposite", "near_duplicates_fine"):
                continue  # what a float64 Gram matrix says of these is not what the gradients are
            if (norms(case.jacobian) > 0).all():
                assert optimality(case, w) <= 4e-15, str(case)

    def test_64_tasks(self) -> None:
        for case in cases(["random", "conflict", "rank_deficient", "steeply_graded"], (33, 64), 1):
            assert optimality(case, ops.solve_mgda(case.gram)[0]) <= 1e-14, str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 6), seeds=2):
            found, wanted = ops.solve_mgda(case.gram)[0], reference.solve_mgda(case.gram, None)[0]
            assert_same(case, found, wanted, rtol=0.0, of_terms=2e-12)

    def test_against_all_faces(self) -> None:
        for case in cases(["random", "square", "conflict", "shared_direction"], (2, 4, 6), 3):
            d = case.jacobian.T @ ops.solve_mgda(case.gram)[0]
            wanted = over_all_faces(case.jacobian, range(case.tasks))
            torch.testing.assert_close(d, wanted, rtol=1e-9, atol=1e-12)

    def test_against_least_squares_on_the_gradients_themselves(self) -> None:
        optimize = pytest.importorskip("scipy.optimize")
        for case in cases(DESCENT, sizes=(3, 8), seeds=2):
            if float(norms(case.jacobian).max() / norms(case.jacobian).min()) > 1e3:
                continue  # scipy's tolerance is absolute
            unit = case.jacobian / norms(case.jacobian).max()
            stacked = np.vstack([unit.T.numpy(), np.ones(case.tasks)])
            z, _ = optimize.nnls(stacked, np.append(np.zeros(unit.shape[1]), 1.0))
            wanted = torch.tensor(z / z.sum())
            assert_same(case, ops.solve_mgda(case.gram)[0], wanted, rtol=1e-7, of_terms=1e-12)

    def test_in_60_digits(self) -> None:
        families = [
            "random",
            "conflict",
            "hard_conflict",
            "graded",
            "steeply_graded",
            "near_duplicates",
        ]
        for case in cases(families, sizes=(2, 5, 8), seeds=2):
            w = ops.solve_mgda(case.gram)[0]
            truth = certified.products(case.jacobian)
            exact = certified.least_norm(truth, w.nonzero().flatten().tolist())
            off = sixty_digits.exact(w) - exact
            error = float((off.T * truth * off)[0]) ** 0.5
            assert error <= 1e-13 * size(case, w), f"{case}: {error / length(case, w):.1e}"

    def test_is_shorter_than_what_frank_wolfe_finds(self) -> None:
        for case in cases(EVERYWHERE, sizes=(3, 8), seeds=1):
            exact, other = ops.solve_mgda(case.gram)[0], ops.solve_mgda_frank_wolfe(case.gram)[0]
            assert length(case, exact) <= length(case, other) + 1e-12 * size(case, other), str(case)

    def test_every_task_gains(self) -> None:
        for case in cases(["random", "conflict", "shared_direction", "graded"], (2, 8), 3):
            d = case.jacobian.T @ ops.solve_mgda(case.gram)[0]
            assert (case.jacobian @ d >= (1 - 1e-9) * (d @ d)).all()

    @pytest.mark.parametrize("factor", [1e-15, 1e-6, 1e6, 1e15])
    def test_the_size_of_the_gradients_does_not_matter(self, factor: float) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(2, 8), seeds=2):
            w = ops.solve_mgda(case.gram)[0]
            scaled = ops.solve_mgda(gram(factor * case.jacobian))[0]
            torch.testing.assert_close(scaled, w, rtol=1e-9, atol=1e-12)

    def test_renaming_the_tasks_renames_the_weights(self) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(3, 8, 33), seeds=2):
            order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(1))
            w = ops.solve_mgda(case.gram)[0]
            renamed = ops.solve_mgda(case.gram[:, order][:, :, order].contiguous())[0]
            torch.testing.assert_close(renamed, w[order], rtol=1e-8, atol=1e-12)

    def test_a_task_that_is_there_twice_counts_once(self) -> None:
        for case in cases(["random", "conflict"], sizes=(2, 5)):
            d = case.jacobian.T @ ops.solve_mgda(case.gram)[0]
            doubled = torch.cat([case.jacobian, case.jacobian[:1]])
            again = doubled.T @ ops.solve_mgda(gram(doubled))[0]
            torch.testing.assert_close(again, d, rtol=1e-9, atol=1e-12)

    def test_zero_gradients_share_the_weight(self) -> None:
        j = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        assert ops.solve_mgda(gram(j))[0].tolist() == [0, 0.5, 0, 0.5]

    def test_known_answers(self) -> None:
        for rows, w in (
            ([[2.0]], [1.0]),
            ([[1.0, 0.0], [0.0, 2.0]], [0.8, 0.2]),
            ([[1.0, 0.0], [3.0, 1.0]], [1.0, 0.0]),
            ([[2.0, 0.0], [-1.0, 0.0]], [1 / 3, 2 / 3]),
        ):
            found = ops.solve_mgda(gram(torch.tensor(rows, dtype=torch.float64)))[0]
            torch.testing.assert_close(found, torch.tensor(w, dtype=torch.float64))


class TestFrankWolfe:
    def test_against_the_definition(self) -> None:
        for case in cases(sizes=(1, 2, 3, 6), seeds=2):
            found = ops.solve_mgda_frank_wolfe(case.gram)[0]
            wanted = reference.solve_mgda_frank_wolfe(case.gram, None, 1e-3, 100)[0]
            # Where two tasks tie for the worst, rounding decides.
            allowed = 0.1 if case.family in ("simplex", "opposite", "parallel") else 1e-9
            assert float((found - wanted).abs().max()) <= allowed, str(case)

    def test_goes_to_the_exact_answer(self) -> None:
        for case in cases(["random", "shared_direction"], sizes=(2, 4), seeds=2):
            found = ops.solve_mgda_frank_wolfe(case.gram, epsilon=1e-12, max_iters=20000)[0]
            assert_same(case, found, ops.solve_mgda(case.gram)[0], rtol=2e-2)

    def test_stops_when_told(self) -> None:
        case = make("random", 8, 0)
        uniform = torch.full((8,), 1 / 8, dtype=torch.float64)
        once = ops.solve_mgda_frank_wolfe(case.gram, max_iters=1)[0]
        worst = int((case.gram[0] @ uniform).argmin())
        moved = once - uniform
        assert int(moved.argmax()) == worst
        assert (moved.argsort()[:-1] != worst).all()
        short = ops.solve_mgda_frank_wolfe(case.gram, epsilon=1.0, max_iters=100)[0]
        assert torch.equal(short, once)  # the first step is shorter than 1 already

    def test_two_tasks_take_one_step(self) -> None:
        for case in cases(["random", "conflict"], sizes=(2,), seeds=4):
            found = ops.solve_mgda_frank_wolfe(case.gram)[0]
            assert_same(case, found, ops.solve_mgda(case.gram)[0], rtol=1e-9)


class TestLeastWeights:
    @staticmethod
    def bounds(case: Case) -> Tensor:
        g = torch.Generator().manual_seed(case.seed)
        c = torch.rand(case.tasks, generator=g, dtype=torch.float64) / case.tasks
        return c * (torch.rand(case.tasks, generator=g) < 0.6)

    def test_no_allowed_vector_is_shorter(self) -> None:
        """Where a weight is above its bound, the gain is the least of all."""
        for case in cases(EVERYWHERE, sizes=(1, 2, 3, 8), seeds=2):
            c = self.bounds(case)
            w = ops.solve_mgda(case.gram, min_weights=c)[0]
            assert (w >= c).all(), str(case)
            assert float(w.sum()) == pytest.approx(1, rel=1e-13), str(case)
            x, gains = w - c, case.gram[0] @ w
            size_ = float(norms(case.jacobian).max()) * float(w @ norms(case.jacobian))
            if size_ > 0:
                off = (float(x @ gains) / float(x.sum()) - gains).clamp(min=0).max() / size_
                assert float(off) <= (1e-7 if "graded" in case.family else 1e-12), str(case)

    def test_against_the_definition(self) -> None:
        for case in cases(EVERYWHERE, sizes=(2, 3, 6), seeds=1):
            c = self.bounds(case)
            w = ops.solve_mgda(case.gram, min_weights=c)[0]
            v = reference.solve_mgda(case.gram, None, c)[0]
            assert_same(case, w, v, rtol=0.0, of_terms=1e-7)  # lengths: half of the digits

    def test_without_bounds_it_is_mgda(self) -> None:
        case = make("conflict", 4, 0)
        zero = torch.zeros(4, dtype=torch.float64)
        w = ops.solve_mgda(case.gram, min_weights=zero)[0]
        assert_same(case, w, ops.solve_mgda(case.gram)[0], rtol=1e-10)

    def test_bounds_that_leave_nothing_are_the_weights(self) -> None:
        c = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        assert torch.equal(ops.solve_mgda(make("random", 3, 0).gram, min_weights=c)[0], c)

    def test_known_answers(self) -> None:
        rows = torch.tensor([[1.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
        c = torch.tensor([0.0, 0.25], dtype=torch.float64)
        assert ops.solve_mgda(gram(rows), min_weights=c)[0].tolist() == pytest.approx([0.75, 0.25])
        c = torch.tensor([0.1, 0.5], dtype=torch.float64)
        found = ops.solve_mgda(gram(0 * rows), min_weights=c)[0]
        assert found.tolist() == pytest.approx([0.3, 0.7])

"""ConicGrad: the search of its path on every matrix, and against geometry done by hand."""

from __future__ import annotations

import math

import pytest
import torch
from matrices import FAMILIES, STATIONARY, Case, cases, gram, norms
from merged import assert_same
from torch import Tensor

from mtl_ops import ops, reference

CONES = [1e-3, 0.25, 0.7, 0.95, 1 - 1e-9]


def parts(case: Case, w: Tensor) -> tuple[Tensor, Tensor, float]:
    """g0, d, and the size of the longest gradient."""
    return case.jacobian.mean(dim=0), case.jacobian.T @ w, float(norms(case.jacobian).max())


@pytest.mark.parametrize("c", CONES)
class TestGuarantees:
    def test_length_cone_and_the_worst_task(self, c: float) -> None:
        for case in cases(sizes=(1, 2, 3, 8, 24), seeds=2):
            w = ops.solve_conicgrad(case.gram, c=c)[0]
            mean, d, longest = parts(case, w)
            assert w.isfinite().all(), str(case)
            if mean.norm() <= 1e-9 * longest:
                continue
            slack = 1e-8 * max(longest, float(w.abs() @ norms(case.jacobian)))
            assert float(d.norm() - mean.norm()) == pytest.approx(0, abs=slack), str(case)
            assert float(mean @ d) >= c * float(mean.norm()) ** 2 - slack * float(mean.norm())
            least, before = (float((case.jacobian @ x).min()) for x in (d, mean))
            if before > 0:  # the mean is in the cone, too
                assert least >= before - slack * longest, str(case)

    def test_no_direction_is_better(self, c: float) -> None:
        """The value of the dual problem, which none in the cone can exceed, at the ω that is found."""
        for case in cases(sorted(set(FAMILIES) - STATIONARY), sizes=(2, 5, 16), seeds=2):
            found = ops.solve_conicgrad(case.gram, c=c)[0]
            mean, d, longest = parts(case, found)
            least = float((case.jacobian @ d).min() / d.norm())
            if least <= 1e-6 * longest:
                continue  # nothing is good for all
            # ω: d is the point of the cone nearest to g_ω
            axis = mean / mean.norm()
            omega = (found - found.min()).clamp(min=0)
            omega = (
                omega / omega.sum() if omega.sum() > 0 else torch.full_like(omega, 1 / case.tasks)
            )
            for share in (omega, ops.solve_mgda(case.gram)[0]):
                pull = case.jacobian.T @ share
                along = float(pull @ axis)
                across = float((pull - along * axis).norm())
                inside = along >= c * float(pull.norm())
                bound = (
                    math.hypot(along, across)
                    if inside
                    else c * along + math.sqrt(1 - c * c) * across
                )
                assert least <= bound + 1e-9 * longest, str(case)

    def test_against_the_definition(self, c: float) -> None:
        for case in cases(sizes=(2, 5), seeds=1):
            if case.family in STATIONARY | {"near_opposite", "near_duplicates_fine"}:
                continue
            if float(norms(case.jacobian).max() / norms(case.jacobian).min()) > 1e4:
                continue  # what of a long gradient is orthogonal to the mean is below the rounding of G
            found = ops.solve_conicgrad(case.gram, c=c)[0]
            wanted = reference.solve_conicgrad(case.gram, None, c)[0]
            assert_same(case, found, wanted, rtol=1e-6, of_terms=1e-9)


def test_two_gradients_in_a_plane() -> None:
    """By a fine grid of directions."""
    angles = torch.linspace(-math.pi, math.pi, 72001, dtype=torch.float64)
    compass = torch.stack([angles.cos(), angles.sin()], dim=1)
    g = torch.Generator().manual_seed(0)
    on_border = 0
    for _ in range(40):
        rows = torch.randn(3, 2, generator=g, dtype=torch.float64)
        rows = rows * 10.0 ** torch.randn(3, 1, generator=g, dtype=torch.float64)
        mean = rows.mean(dim=0)
        for c in (0.3, 0.8):
            inside = compass @ mean >= c * mean.norm()
            best = float((compass[inside] @ rows.T).min(dim=1).values.max())
            d = rows.T @ ops.solve_conicgrad(gram(rows), c=c)[0]
            found = float((rows @ d).min() / d.norm())
            longest = float(rows.norm(dim=1).max())
            if best > 1e-3 * longest:
                assert float(d @ mean) >= (c - 1e-9) * float(d.norm() * mean.norm())
                assert found == pytest.approx(best, abs=2e-4 * longest)
                on_border += float(d @ mean) < c * float(mean.norm()) ** 2 * (1 + 1e-6)
    assert on_border > 5


def test_with_a_wide_cone_it_is_mgda_s_direction() -> None:
    for case in cases(["random", "shared_direction"], sizes=(3, 8), seeds=2):
        mean, d, _ = parts(case, ops.solve_conicgrad(case.gram, c=1e-6)[0])
        m = case.jacobian.T @ ops.solve_mgda(case.gram)[0]
        torch.testing.assert_close(d, m * (mean.norm() / m.norm()), rtol=1e-9, atol=1e-12)


def test_degenerate() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert ops.solve_conicgrad(gram(rows))[0].tolist() == [0, 0]  # no axis
    assert ops.solve_conicgrad(gram(0 * rows))[0].tolist() == [0, 0]
    rows = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    merged = rows.T @ ops.solve_conicgrad(gram(rows))[0]
    torch.testing.assert_close(merged, torch.tensor([1.0, 0.0], dtype=torch.float64))
    rows = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # all on a line
    merged = rows.T @ ops.solve_conicgrad(gram(rows), c=0.5)[0]
    torch.testing.assert_close(merged, torch.tensor([1.0, 0.0], dtype=torch.float64))
    # the second stays unharmed, at 60° to the mean
    rows = torch.tensor([[4.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    w = ops.solve_conicgrad(gram(rows), c=0.5)[0]
    assert float((rows @ (rows.T @ w)).min()) >= -1e-12


def test_a_parallel_gradient_and_combinations_that_cancel() -> None:
    """Rows of zeros, and null vectors, in what the path is searched in."""
    rows = torch.tensor(
        [[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [1.0, -2.0, 0.0], [1.0, 0.0, 0.3], [1.0, 0.0, -0.3]],
        dtype=torch.float64,
    )
    for c in (0.1, 0.5, 0.9):  # the mean is best already: all gain the same
        d = rows.T @ ops.solve_conicgrad(gram(rows), c=c)[0]
        torch.testing.assert_close(d, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))

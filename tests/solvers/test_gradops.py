"""GradOPS and DiBS-MTL."""

from __future__ import annotations

import pytest
import torch
from matrices import FAMILIES, cases, gram, make, norms
from merged import assert_same, size

from mtl_ops import ops, reference

SOUND = ["random", "square", "shared_direction", "conflict", "graded", "sparse", "duplicates"]


@pytest.mark.parametrize("project", ["conflict", "all"])
def test_contradicts_no_gradient(project: str) -> None:
    for case in cases(sorted(FAMILIES), sizes=(1, 2, 3, 8), seeds=2):
        if case.family in ("near_duplicates_fine", "near_opposite"):
            continue  # dependent or not: below what a Gram matrix of float64 tells
        for alpha in (0.0, 0.5, -0.5):
            w = ops.solve_gradops(case.gram, alpha=alpha, project=project)[0]
            assert w.isfinite().all(), str(case)
            gains = case.jacobian @ (case.jacobian.T @ w)
            slack = 1e-7 * size(case, w) * norms(case.jacobian)
            assert (gains >= -slack).all(), str(case)


def test_what_is_orthogonal_to_all_others() -> None:
    for case in cases(["random", "conflict", "graded"], sizes=(2, 3, 5), seeds=2):
        rows = case.jacobian
        wanted = torch.zeros_like(rows[0])
        for i, row in enumerate(rows):
            others = torch.cat([rows[:i], rows[i + 1 :]])
            conflict = bool((others @ row < 0).any())
            away = torch.linalg.lstsq(others.T, row.unsqueeze(1)).solution.squeeze(1)
            wanted += row - others.T @ away if conflict else row
        found = rows.T @ ops.solve_gradops(case.gram)[0]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9 * float(norms(rows).sum()))


def test_progress_of_projected_gradients() -> None:
    for case in cases(["random", "square", "conflict"], sizes=(3, 6), seeds=2):
        w = ops.solve_gradops(case.gram, project="all")[0]
        n = norms(case.jacobian)
        cosines = case.gram[0] / n.outer(n)
        progress = (case.gram[0] @ w) * torch.linalg.inv(cosines).diagonal() / n**2
        torch.testing.assert_close(progress, torch.ones_like(n), rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_against_the_definition(alpha: float) -> None:
    for case in cases(SOUND, sizes=(2, 3, 6), seeds=2):
        w = ops.solve_gradops(case.gram, alpha=alpha)[0]
        v = reference.solve_gradops(case.gram, None, alpha, False, None, ops.EXACT)[0]
        assert_same(case, w, v, rtol=1e-8, of_terms=1e-10)
        if (case.gram >= 0).all() and alpha == 0:
            torch.testing.assert_close(w, torch.ones_like(w), rtol=1e-12, atol=0)


class TestDibs:
    def test_against_the_definition(self) -> None:
        for case in cases(sizes=(1, 2, 3, 6), seeds=1):
            for steps in (1, 2, 5):
                w = ops.solve_dibs_mtl(case.gram, steps=steps, step=0.3)[0]
                v = reference.solve_dibs_mtl(case.gram, None, steps, 0.3)[0]
                torch.testing.assert_close(w, v, rtol=1e-9, atol=0, msg=str(case))

    def test_lengths_do_not_matter(self) -> None:
        case = make("conflict", 5, 0)
        factors = torch.tensor([1e-6, 1e6, 3.0, 1.0, 0.1], dtype=torch.float64)
        for steps in (1, 5):
            w = ops.solve_dibs_mtl(case.gram, steps=steps)[0]
            longer = gram(factors.unsqueeze(1) * case.jacobian)
            v = ops.solve_dibs_mtl(longer, steps=steps)[0] * factors
            torch.testing.assert_close(v, w, rtol=1e-9, atol=0)

    def test_one_step_is_a_sum_of_unit_gradients(self) -> None:
        case = make("zero_row", 4, 0)
        w = ops.solve_dibs_mtl(case.gram)[0]
        n = norms(case.jacobian)
        torch.testing.assert_close(w * n, 0.2 * (n > 0).double(), rtol=1e-13, atol=0)

    def test_stops_outside_of_the_ball(self) -> None:
        same = torch.ones(1, 2, 2, dtype=torch.float64)
        # y: 0.4, then 0.4 + 0.4 |-0.8 + 1| = 0.48, ...; with 0.8 one step is outside
        assert ops.solve_dibs_mtl(same, steps=2, step=0.4)[0].tolist() == pytest.approx([0.48] * 2)
        assert ops.solve_dibs_mtl(same, steps=9, step=0.8)[0].tolist() == [0.8, 0.8]

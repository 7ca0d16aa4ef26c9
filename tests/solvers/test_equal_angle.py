"""IMTL-G, ConFIG and Aligned-MTL, and the eigenvalues behind them."""

from __future__ import annotations

import pytest
import torch
from matrices import SINGULAR, Case, cases, make, norms
from merged import assert_same, length, size
from torch import Tensor

from mtl_ops import ops, reference

from . import sixty_digits as digits

#: Independent gradients whose cosine matrix is far from singular.
REGULAR = [
    "random",
    "nearly_orthogonal",
    "orthogonal",
    "conflict",
    "tiny",
    "huge",
    "graded",
    "steeply_graded",
    "graded_conflict",
    "dominated",
    "heavy_tailed",
    "sparse",
]
SIZES = (1, 2, 3, 5, 8)


def regular(sizes: tuple[int, ...] = SIZES, seeds: int = 2) -> list[Case]:
    made = cases(REGULAR, sizes=sizes, seeds=seeds)
    return [case for case in made if (norms(case.jacobian) > 0).all()]


def some() -> list[Case]:
    """Every family, and a few of an odd size that fills the vector registers."""
    return [
        *cases(sizes=(1, 2, 3, 6), seeds=1),
        *cases(["random", "conflict", "rank_deficient", "steeply_graded"], sizes=(17,), seeds=1),
    ]


def cosine_condition(case: Case) -> float:
    n = norms(case.jacobian)
    return float(torch.linalg.cond(case.gram[0] / n.outer(n)))


def aligning(case: Case, scale_mode: str = "min") -> Tensor:
    """B, a column for each unit vector as the preference."""
    unit = torch.eye(case.tasks, dtype=torch.float64)
    columns = [
        ops.solve_aligned_mtl(case.gram, preference=p, scale_mode=scale_mode)[0] for p in unit
    ]
    return torch.stack(columns, dim=1)


class TestAgainstTheDefinition:
    """The kernel and the reference decompose by different algorithms."""

    # Near-duplicates amplify the rounding of G itself: 1e-16 / (1e-3)² of relative precision is
    # lost to it, and at 1e-8 no digit of their difference is left.
    LOOSE = frozenset({"near_opposite", "near_duplicates", "near_duplicates_fine"})

    @staticmethod
    def check(case: Case, found: Tensor, wanted: Tensor) -> None:
        loose = case.family in TestAgainstTheDefinition.LOOSE
        rtol = 1e-7 if loose else 1e-9
        assert_same(
            case, found[0], wanted[0], rtol=rtol, of_terms=1e-7 if loose else 1e-13, of_rows=1e-14
        )

    @pytest.mark.parametrize("avoid_ascent", [False, True])
    def test_imtl_g(self, avoid_ascent: bool) -> None:
        for case in some():
            found = ops.solve_imtl_g(case.gram, avoid_ascent=avoid_ascent)
            self.check(case, found, reference.solve_imtl_g(case.gram, None, avoid_ascent, None))

    @pytest.mark.parametrize("rank_tol", [None, 1e-5, 0.3])
    def test_config(self, rank_tol: float | None) -> None:
        for case in some():
            p = torch.linspace(-0.5, 2.0, case.tasks, dtype=torch.float64)
            found = ops.solve_config(case.gram, preference=p, rank_tol=rank_tol)
            self.check(case, found, reference.solve_config(case.gram, None, p, rank_tol))

    @pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
    def test_aligned_mtl(self, scale_mode: str) -> None:
        place = ("min", "median", "rmse").index(scale_mode)
        for case in some():
            p = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
            found = ops.solve_aligned_mtl(case.gram, preference=p, scale_mode=scale_mode)
            self.check(case, found, reference.solve_aligned_mtl(case.gram, None, p, place, None))

    def test_64_tasks(self) -> None:
        for case in cases(["random", "duplicates", "steeply_graded"], sizes=(64,), seeds=1):
            self.check(
                case,
                ops.solve_aligned_mtl(case.gram),
                reference.solve_aligned_mtl(case.gram, None, None, 0, None),
            )
            self.check(
                case,
                ops.solve_imtl_g(case.gram),
                reference.solve_imtl_g(case.gram, None, False, None),
            )


class TestAgainstSixtyDigits:
    @pytest.mark.parametrize(
        ("solve", "truth"),
        [
            (ops.solve_imtl_g, digits.imtl_g),
            (ops.solve_config, digits.config),
            (ops.solve_aligned_mtl, digits.aligned),
        ],
    )
    def test_is_as_accurate_as_the_cosines_allow(self, solve, truth) -> None:
        for case in regular(sizes=(1, 2, 3, 6), seeds=2):
            error = digits.relative_error(case.gram[0], solve(case.gram)[0], truth(case.gram[0]))
            allowed = 2e-15 * case.tasks * cosine_condition(case)
            if solve is ops.solve_imtl_g:  # Σw = 1 cancels
                v = solve(case.gram)[0]
                allowed *= float(v.abs().sum() / v.sum().abs()) * max(
                    1.0, size(case, v) / length(case, v)
                )
            assert error <= allowed, f"{case}: {error:.1e}, {allowed:.1e} allowed"

    def test_small_eigenvalues_are_as_accurate_as_large_ones(self) -> None:
        # Gᵀ-lengths: B G B = σ I with σ the least eigenvalue, down to 1e-24 of the largest.
        for case in cases(["graded", "steeply_graded", "dominated"], sizes=(2, 3, 6), seeds=3):
            least = digits.eigenvalues(case.gram[0])[-1]
            b, g = digits.exact(aligning(case)), digits.exact(case.gram[0])
            product = b * g * b.T
            allowed = 1e-14 * case.tasks * cosine_condition(case)
            for i in range(case.tasks):
                for j in range(case.tasks):
                    wanted = 1.0 if i == j else 0.0
                    assert abs(product[i, j] / least - wanted) <= allowed, str(case)


class TestEqualProjections:
    def test_imtl_g_makes_the_same_progress_on_every_unit_gradient(self) -> None:
        for case in regular():
            w, n = ops.solve_imtl_g(case.gram)[0], norms(case.jacobian)
            projections = case.gram[0] @ w / n
            terms = (case.gram[0].abs() @ w.abs() / n).max()
            assert (projections - projections.mean()).abs().max() <= 1e-13 * terms
            assert abs(float(w.sum()) - 1) <= 1e-14 * float(w.abs().sum())

    def test_config_has_equal_positive_cosines(self) -> None:
        for case in regular():
            w, n = ops.solve_config(case.gram)[0], norms(case.jacobian)
            d = case.jacobian.T @ w
            cosines = case.jacobian @ d / n / d.norm()
            wanted = digits.cosines(case.gram[0])[1] ** -1
            common = float(1 / digits.mp.sqrt(sum(wanted)))
            assert cosines.sub(common).abs().max() <= 1e-12
            assert common > 0

    def test_config_is_as_long_as_the_projections_together(self) -> None:
        for case in regular():
            d = case.jacobian.T @ ops.solve_config(case.gram)[0]
            projections = float((case.jacobian @ d).sum() / d.norm())
            assert float(d.norm()) == pytest.approx(projections, rel=1e-11)

    def test_config_has_cosines_in_the_ratio_of_the_preference(self) -> None:
        for case in regular(sizes=(2, 3, 5)):
            p = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
            d = case.jacobian.T @ ops.solve_config(case.gram, preference=p)[0]
            ratios = case.jacobian @ d / norms(case.jacobian) / p
            assert (ratios / ratios[0] - 1).abs().max() <= 1e-11

    def test_config_keeps_its_direction_when_gradients_get_longer(self) -> None:
        for case in regular(sizes=(2, 3, 5), seeds=1):
            factors = torch.logspace(-3, 4, case.tasks, dtype=torch.float64)
            scaled = factors.unsqueeze(1) * case.jacobian
            d = case.jacobian.T @ ops.solve_config(case.gram)[0]
            e = scaled.T @ ops.solve_config((scaled @ scaled.T).unsqueeze(0))[0]
            assert (d / d.norm() - e / e.norm()).norm() <= 1e-11

    def test_both_have_the_same_direction_up_to_the_sign(self) -> None:
        for case in regular():
            d = case.jacobian.T @ ops.solve_imtl_g(case.gram)[0]
            e = case.jacobian.T @ ops.solve_config(case.gram)[0]
            assert float((d @ e).abs() / d.norm() / e.norm()) == pytest.approx(1, abs=1e-11)


class TestAscent:
    @staticmethod
    def uphill() -> list[Case]:
        """Problems whose equal projections, with weights that sum to 1, are negative."""
        found = []
        for seed in range(40):
            g = torch.Generator().manual_seed(seed)
            rows = torch.randn(32, 64, generator=g, dtype=torch.float64) + 2.0 * torch.randn(
                1, 64, generator=g, dtype=torch.float64
            )
            rows *= 10.0 ** (2.0 * torch.rand(32, 1, generator=g, dtype=torch.float64) - 1.0)
            case = Case("shared and scaled", 32, seed, rows)
            if float((case.gram[0] @ ops.solve_imtl_g(case.gram)[0]).max()) < 0:
                found.append(case)
        return found

    def test_the_paper_goes_uphill_for_every_task_and_config_for_none(self) -> None:
        found = self.uphill()
        assert len(found) >= 2
        for case in found:
            w = ops.solve_imtl_g(case.gram, avoid_ascent=True)
            assert torch.equal(w, ops.solve_config(case.gram))
            assert float((case.gram[0] @ w[0]).min()) > 0

    def test_elsewhere_nothing_changes(self) -> None:
        for case in regular(sizes=(1, 2, 3)):
            w = ops.solve_imtl_g(case.gram)
            assert (case.gram[0] @ w[0]).min() > 0
            assert torch.equal(w, ops.solve_imtl_g(case.gram, avoid_ascent=True))


class TestAligned:
    @pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
    def test_makes_orthogonal_gradients_of_the_chosen_length(self, scale_mode: str) -> None:
        for case in regular(sizes=(2, 3, 6), seeds=1):
            values = digits.eigenvalues(case.gram[0])
            square = {
                "min": values[-1],
                "median": values[case.tasks // 2],
                "rmse": sum(values) / case.tasks,
            }[scale_mode]
            b = digits.exact(aligning(case, scale_mode))
            product = b * digits.exact(case.gram[0]) * b.T / square
            unit = digits.mp.eye(case.tasks)
            worst = max(abs(e) for e in product - unit)
            assert worst <= 1e-13 * case.tasks * cosine_condition(case), str(case)

    def test_dependent_gradients_span_what_they_spanned(self) -> None:
        for case in cases(["duplicates", "rank_deficient", "simplex"], sizes=(2, 3, 6)):
            b = aligning(case)
            lengths = torch.linalg.svdvals(b @ case.jacobian)
            rank = int(torch.linalg.matrix_rank(case.jacobian))
            assert int((lengths > 1e-6 * lengths[0]).sum()) == rank
            assert (lengths[:rank] / lengths[0] - 1).abs().max() <= 1e-10

    def test_a_short_gradient_is_not_taken_for_a_dependent_one(self) -> None:
        gram = torch.diag(torch.tensor([1.0, 1e-24], dtype=torch.float64)).unsqueeze(0)
        w = ops.solve_aligned_mtl(gram)[0]
        assert w.tolist() == pytest.approx([0.5e-12, 0.5], rel=1e-14)

    def test_rank_tol_tells_noise_from_independence(self) -> None:
        g = torch.Generator().manual_seed(0)
        row = torch.randn(1, 50, generator=g, dtype=torch.float64)
        rows = torch.cat([row, row + 1e-4 * torch.randn(1, 50, generator=g, dtype=torch.float64)])
        gram = (rows @ rows.T).unsqueeze(0)
        as_two = rows.T @ ops.solve_aligned_mtl(gram)[0]
        as_one = rows.T @ ops.solve_aligned_mtl(gram, rank_tol=1e-5)[0]
        assert float(as_two.norm()) < 1e-2 * float(row.norm())
        assert float(as_one.norm()) == pytest.approx(float(row.norm()), rel=1e-3)


class TestDependentAndGraded:
    """More tasks than dimensions, lengths over twenty decades: a long task's rounding beside a short task."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("method", ["imtl_g", "aligned"])
    def test_in_140_digits(self, method: str, dtype: torch.dtype) -> None:
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randn(10, 6, generator=generator, dtype=torch.float64)
            rows *= 10 ** (20 * torch.rand(10, 1, generator=generator, dtype=torch.float64) - 10)
            rows = rows.to(dtype)
            truth = digits.of_dependent_gradients(rows.double(), 6, method)
            matrix, rounding = ops.gram(list(rows), 10), ops.rounding_of([dtype])
            if method == "imtl_g":
                kernel = ops.solve_imtl_g(matrix, rounding=rounding)
                plain = reference.solve_imtl_g(matrix, None, False, None, rounding)
            else:
                kernel = ops.solve_aligned_mtl(matrix, rounding=rounding)
                plain = reference.solve_aligned_mtl(matrix, None, None, 0, None, rounding)
            allowed = 1e-12 if dtype == torch.float64 else 1e-4
            for w in (kernel[0], plain[0]):
                off = digits.exact(rows.double()).T * digits.exact(w) - truth
                assert digits.mp.norm(off) <= allowed * digits.mp.norm(truth), seed


class TestDegenerate:
    def test_one_task(self) -> None:
        gram = torch.full((1, 1, 1), 7.0, dtype=torch.float64)
        for solve in (ops.solve_imtl_g, ops.solve_config, ops.solve_aligned_mtl):
            assert solve(gram).item() == pytest.approx(1, rel=1e-15)

    def test_all_zero(self) -> None:
        gram = torch.zeros(1, 3, 3, dtype=torch.float64)
        p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        assert not ops.solve_imtl_g(gram).any()
        assert not ops.solve_imtl_g(gram, avoid_ascent=True).any()
        assert not ops.solve_config(gram, preference=p).any()
        assert torch.equal(ops.solve_aligned_mtl(gram, preference=p)[0], p)

    def test_a_preference_without_a_direction(self) -> None:
        gram = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
        assert not ops.solve_config(gram).any()
        assert not ops.solve_imtl_g(gram).any()

    @pytest.mark.parametrize("solve", [ops.solve_imtl_g, ops.solve_config, ops.solve_aligned_mtl])
    def test_a_zero_gradient_changes_nothing_for_the_others(self, solve) -> None:
        for case in cases(["zero_row"], sizes=(2, 3, 5, 8), seeds=4):
            kept = norms(case.jacobian) > 0
            w = solve(case.gram)[0]
            smaller = solve(case.gram[:, kept][:, :, kept])[0]
            if solve is ops.solve_aligned_mtl:  # p = 1/k
                smaller = smaller * (case.tasks - 1) / case.tasks
            assert torch.allclose(w[kept], smaller, rtol=1e-12, atol=0)
            assert not w[~kept].any()

    def test_singular_problems_have_finite_answers(self) -> None:
        for case in cases(SINGULAR, sizes=(1, 2, 5, 16, 33), seeds=2):
            for solve in (ops.solve_imtl_g, ops.solve_config, ops.solve_aligned_mtl):
                assert solve(case.gram).isfinite().all(), str(case)

    def test_duplicates_share_a_weight(self) -> None:
        case = make("duplicates", 6, 0)
        for solve in (ops.solve_imtl_g, ops.solve_config, ops.solve_aligned_mtl):
            w = solve(case.gram)[0]
            assert torch.allclose(w[:3], w[3:], rtol=1e-11)

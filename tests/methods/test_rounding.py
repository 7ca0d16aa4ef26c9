"""Gradients of few digits: what the rounding of the Gram matrix must not decide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, gram, norms
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer, ops
from mtl_ops.methods import NashMTL, NativeMethod

#: How far a merged gradient may be off, as a share of its length.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}

WEIGHING = [
    "aligned_mtl",
    "cagrad",
    "config",
    "dualproj",
    "fairgrad",
    "gradvac",
    "imtl_g",
    "mgda",
    "nash_mtl",
    "pcd",
    "pcgrad",
    "upgrad",
]

#: Those that decide what depends on what, or start from a ridge.
RANKED = ["aligned_mtl", "config", "dualproj", "fairgrad", "imtl_g", "nash_mtl", "upgrad"]


def merged(rows: Tensor, name: str, **params: Any) -> Tensor:
    method = mtl_ops.methods.get(name, **params)
    method.generator = torch.Generator().manual_seed(0)
    return mtl_ops.merge(rows, method)


def with_a_dependent_task(seed: int, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, 300 + 10 * seed, generator=generator)
    rows *= 10 ** (2 * torch.rand(2, 1, generator=generator) - 1)
    third = rows.mean(dim=0) if kind == "mean of the others" else -rows.sum(dim=0)
    return torch.cat([rows, third.unsqueeze(0)])


class TestDependentTasks:
    @pytest.mark.parametrize("kind", ["mean of the others", "minus the sum of the others"])
    @pytest.mark.parametrize("name", WEIGHING)
    def test_are_seen_in_float32(self, name: str, kind: str) -> None:
        """Against the same method on a Gram matrix without error, to which it does not know that."""
        for seed in range(30):
            rows = with_a_dependent_task(seed, kind)
            method = mtl_ops.methods.get(name)
            method.generator = torch.Generator().manual_seed(0)
            assert isinstance(method, NativeMethod)
            given = {"rounding": ops.rounding_of([torch.float32])} if method.uses_rounding else {}
            exact = rows.double()
            wanted = exact.T @ method.weights(exact @ exact.T, **given)
            # of a merged gradient that all but vanishes: to a share of the shortest, of unit length for Nash-MTL
            shortest = 1.0 if name == "nash_mtl" else float(norms(exact).min())
            size = max(float(wanted.norm()), shortest)
            off = float((merged(rows, name).double() - wanted).norm())
            assert off <= 1e-3 * size, f"{name}, seed {seed}: {off:.1e} of {size:.1e}"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("name", RANKED)
    def test_of_any_dtype_merge_as_in_float64(self, name: str, dtype: torch.dtype) -> None:
        rows = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
        rows = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
        wanted = merged(rows.double(), name)
        found = merged(rows.to(dtype), name).double()
        assert (found - wanted).norm() <= TOLERANCE[dtype] * wanted.norm()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("size", [10, 1000])
    def test_minus_the_sum_in_16_bits_is_balanced(self, dtype: torch.dtype, size: int) -> None:
        for seed in range(20):
            a, b = torch.randn(2, size, generator=torch.Generator().manual_seed(seed))
            rows = torch.stack([a, b, -(a + b)]).to(dtype)
            merged, weights = mtl_ops.merge(rows, "imtl_g", return_weights=True)
            assert weights.abs().max() < 100.0, (seed, weights)
            assert merged.isfinite().all()

    def test_a_number_that_is_given_still_decides(self) -> None:
        rows = with_a_dependent_task(0, "mean of the others")
        for name in ("config", "imtl_g", "aligned_mtl"):
            noise = merged(rows, name, rank_tol=0.0)
            assert (noise - merged(rows, name)).norm() > 0.01 * merged(rows, name).norm(), name
        rows = torch.tensor([[1.0, 0.0], [-3.0, 1.0]])
        for name in ("nash_mtl", "fairgrad", "upgrad", "dualproj"):
            assert not torch.equal(merged(rows, name, reg_eps=0.1), merged(rows, name)), name


class TestProperties:
    """What holds of every method that weighs, in float32 as in float64."""

    FAMILIES = ("random", "conflict", "rank_deficient", "duplicates", "parallel", "stationary")

    def rows(self, sizes: tuple[int, ...] = (3, 6)) -> list[Tensor]:
        made = cases(self.FAMILIES, sizes=sizes, seeds=2)
        return [(case.jacobian / norms(case.jacobian).max()).float() for case in made]

    @pytest.mark.parametrize("name", sorted(set(WEIGHING) - {"gradvac", "pcd", "pcgrad"}))
    def test_renaming_the_tasks_changes_nothing(self, name: str) -> None:
        for rows in self.rows():
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
            found, wanted = merged(rows[order], name), merged(rows, name)
            assert (found - wanted).norm() <= 2e-3 * max(float(wanted.norm()), 0.02)

    @pytest.mark.parametrize("name", sorted(set(WEIGHING) - {"nash_mtl", "fairgrad", "pcd"}))
    @pytest.mark.parametrize("factor", [1e-15, 1e-3, 1e10])
    def test_the_merged_gradient_grows_with_the_gradients(self, name: str, factor: float) -> None:
        for rows in self.rows((4,)):
            scaled = merged(factor * rows, name).double() / factor
            wanted = merged(rows, name).double()
            assert (scaled - wanted).norm() <= 2e-3 * max(float(wanted.norm()), 0.02)

    @pytest.mark.parametrize("name", ["config", "upgrad"])
    def test_no_gradient_is_contradicted(self, name: str) -> None:
        for case in cases(["random", "conflict"], sizes=(3, 6), seeds=3):
            rows = case.jacobian.float()
            d = merged(rows, name).double()
            cosines = rows.double() @ d / norms(rows.double()) / d.norm()
            assert cosines.min() >= -1e-5

    @pytest.mark.parametrize("name", ["cagrad", "config", "dualproj", "mgda", "upgrad"])
    def test_vanishes_only_where_no_direction_suits_all(self, name: str) -> None:
        """A weighted mean of dependent gradients that share a half space is not 0."""
        for seed in range(20):
            rows = with_a_dependent_task(seed, "mean of the others")
            assert merged(rows, name).norm() >= 0.05 * norms(rows).min()


class Watching(NashMTL):
    """Keeps what it is told of the rounding."""

    told: list[float]

    def solve(self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any) -> Any:
        self.told = [*getattr(self, "told", []), given["rounding"]]
        return super().solve(gram, scale, losses, **given)


FLOAT32, BFLOAT16 = (ops.rounding_of([dtype]) for dtype in (torch.float32, torch.bfloat16))


class TestHowItTravels:
    def test_of_dtypes(self) -> None:
        assert ops.rounding_of([]) == ops.rounding_of([torch.float64]) == ops.EXACT
        assert ops.EXACT < FLOAT32 < ops.rounding_of([torch.float16]) < BFLOAT16
        assert ops.rounding_of([torch.float64, torch.bfloat16, torch.float32]) == BFLOAT16

    @pytest.mark.parametrize(
        ("options", "dtype", "wanted"),
        [
            ({}, torch.float32, FLOAT32),
            ({}, torch.float64, ops.EXACT),
            ({"grad_dtype": torch.bfloat16}, torch.float32, BFLOAT16),
            ({"memory": "stream"}, torch.float32, FLOAT32),
            ({"memory": "stream", "granularity": "tensor"}, torch.float32, FLOAT32),
            ({"memory": "stream", "grad_dtype": torch.bfloat16}, torch.float32, BFLOAT16),
            ({"gram_on": "features"}, torch.float32, FLOAT32),
            ({"weights_every": 2}, torch.float64, ops.EXACT),
        ],
    )
    def test_from_the_optimizer(
        self, options: dict[str, Any], dtype: torch.dtype, wanted: float
    ) -> None:
        torch.manual_seed(0)
        net = nn.Linear(4, 3, dtype=dtype)
        method = Watching()
        optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), method, **options)
        features = net(torch.randn(5, 4, dtype=dtype))
        losses = [features[:, 0].square().mean(), features.sin().mean(), features.cos().mean()]
        given = {"features": features} if "gram_on" in options else {}
        optimizer.backward(losses, **given)
        assert method.told
        assert set(method.told) == {wanted}

    def test_through_cr_mogm(self) -> None:
        method = Watching()
        rows = torch.eye(3)
        mtl_ops.merge(rows, mtl_ops.methods.get("cr_mogm", method=method))
        assert method.told == [FLOAT32]

    def test_the_worst_dtype_of_a_call_counts(self) -> None:
        method = Watching()
        params = [torch.ones(3, requires_grad=True)]
        params.append(torch.ones(3, dtype=torch.bfloat16, requires_grad=True))
        losses = [params[0].sum() + params[1].sum().float(), params[0].sin().sum()]
        losses[1] = losses[1] + params[1].cos().sum().float()
        mtl_ops.backward(losses, params, method)
        assert method.told == [BFLOAT16]

    def test_weights_of_a_gram_matrix_take_it_for_exact(self) -> None:
        rows = with_a_dependent_task(0, "mean of the others").double()
        method = Watching()
        method.weights(rows @ rows.T, rounding=0.25)
        assert method.told == [0.25]
        found = mtl_ops.methods.get("config").weights(rows @ rows.T)
        assert torch.equal(found, ops.solve_config(gram(rows))[0])
        assert torch.equal(found, ops.solve_config(gram(rows), rounding=ops.EXACT)[0])

    def test_a_solver_takes_eight_times_the_number_of_tasks(self) -> None:
        rows = torch.tensor([[1.0, 0.0], [1.0, 1e-3]], dtype=torch.float64)
        least = (
            float(torch.linalg.eigvalsh(rows @ rows.T)[0]) / 2.0
        )  # as a share of the largest, nearly 2
        for rounding, seen in ((0.9 * least / 16, True), (1.1 * least / 16, False)):
            p = torch.tensor([1.0, 0.5], dtype=torch.float64)
            w = ops.solve_config(gram(rows), preference=p, rounding=rounding)[0]
            assert bool(w[1] < 0) == seen

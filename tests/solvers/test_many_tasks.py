"""Solvers beyond 64 tasks, where threads share the work and eigenvalues are LAPACK's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrices import Case, make
from merged import assert_same
from torch import Tensor

from mtl_ops import ops, reference

from .test_contract import SOLVERS, kernel
from .test_surgery import some_cosines, some_orders

#: What follows ``gram`` and ``scale`` for S segments of T tasks; tensors that are changed in place among it.
REMEMBERING: dict[str, Callable[[int, int], tuple[Any, ...]]] = {
    "solve_pcgrad": lambda S, T: (some_orders(T, segments=S), False),
    "solve_online_pcgrad": lambda S, T: (some_orders(T, segments=S)[:, 0].contiguous(),),
    "solve_gradvac": lambda S, T: (
        some_orders(T, segments=S),
        0.3 * some_cosines(T).repeat(S, 1, 1),
        0.5,
        0.0,
        1e-9,
    ),
    "solve_adaptive_sharing": lambda S, T: (some_cosines(T).repeat(S, 1, 1), 0.8),
    "solve_pcd": lambda S, T: (torch.zeros(S, 2, T, dtype=torch.float64), 0.02, 0.999, 1e-8),
    "solve_sdmgrad": lambda S, T: (equal(S, T), None, 1.0, 0.5, 20, 0.3),
    "solve_modo": lambda S, T: (equal(S, T), 1e-3, 0.1),
}
#: Those whose definitions take a minute.
SLOW = ("solve_gradvac", "solve_upgrad")
EIGEN = ("solve_aligned_mtl", "solve_config", "solve_imtl_g", "solve_gradops", "solve_ferero")


def equal(segments: int, tasks: int) -> Tensor:
    return torch.full((segments, tasks), 1.0 / tasks, dtype=torch.float64)


def arguments(name: str, segments: int, tasks: int) -> tuple[Any, ...]:
    if name in SOLVERS:
        return SOLVERS[name](tasks)
    return REMEMBERING[name](segments, tasks)


def compare(name: str, cases: list[Case], scale: Tensor | None, rtol: float = 1e-9) -> None:
    """Kernel and definition, a case a segment, and what they leave in their memory."""
    gram = torch.cat([case.gram for case in cases])
    ours, theirs = (arguments(name, len(cases), cases[0].tasks) for _ in range(2))
    found = kernel(name, gram, scale, *ours)
    wanted = getattr(reference, name)(gram, scale, *theirs)
    for s, case in enumerate(cases):
        assert_same(case, found[s], wanted[s], rtol=rtol, of_rows=1e-11)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    if scale is not None:
        assert not found[scale == 0].any()


@pytest.mark.parametrize("tasks", [65, 100])
@pytest.mark.parametrize("name", [*SOLVERS, *REMEMBERING])
class TestEverySolver:
    def test_is_the_definition_in_every_segment(self, name: str, tasks: int) -> None:
        compare(name, [make("random", tasks, 0), make("shared_direction", tasks, 1)], None)

    def test_tasks_left_out(self, name: str, tasks: int) -> None:
        scale = torch.linspace(0.5, 2.0, tasks, dtype=torch.float64).unsqueeze(0)
        scale[0, 1::4] = 0.0
        compare(name, [make("random", tasks, 2)], scale)

    def test_the_same_bits_every_time(self, name: str, tasks: int) -> None:
        gram = make("conflict", tasks, 0).gram
        first, again = (
            kernel(name, gram.clone(), None, *arguments(name, 1, tasks)) for _ in range(2)
        )
        assert torch.equal(first, again)


@pytest.mark.parametrize("name", sorted({*SOLVERS, *REMEMBERING} - {*EIGEN, *SLOW}))
@pytest.mark.parametrize("tasks", [128, 200])
def test_more_tasks(name: str, tasks: int) -> None:
    compare(name, [make("random", tasks, 0)], None)


@pytest.mark.parametrize("family", ["graded", "steeply_graded", "graded_conflict", "conflict"])
@pytest.mark.parametrize(
    "name",
    [
        "solve_mgda",
        "solve_cagrad",
        "solve_conicgrad",
        "solve_dualproj",
        "solve_nash_mtl",
        "solve_fairgrad",
    ],
)
def test_hard_matrices(name: str, family: str) -> None:
    compare(name, [make(family, 70, 0)], None, rtol=1e-8)


@pytest.mark.parametrize("family", ["conflict", "graded_conflict", "steeply_graded"])
@pytest.mark.parametrize("tasks", [70, 200])
def test_upgrad_adds_up_projections(family: str, tasks: int) -> None:
    """The sum of what DualProj, one problem by itself, makes of each gradient."""
    case = make(family, tasks, 0)
    found = ops.solve_upgrad(case.gram, reg_eps=1e-9)[0]
    units = torch.eye(tasks, dtype=torch.float64) / tasks
    single = [ops.solve_dualproj(case.gram, preference=u, reg_eps=1e-9)[0] for u in units]
    assert_same(case, found, torch.stack(single).sum(dim=0), rtol=1e-9, of_rows=1e-11)


class TestOnAnotherDevice:
    """Whose kernels take fewer tasks: played by a ``Tensor.cpu`` that copies."""

    @pytest.fixture(autouse=True)
    def copies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Tensor, "cpu", Tensor.clone)

    def test_the_cpu_s_kernel_solves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        solver = ops.solve._solve_mgda
        monkeypatch.setattr(solver, "devices", frozenset({"cpu", "cuda"}))
        assert solver.on("cuda", 64) is solver.kernel
        assert solver.on("cuda", 1025) is solver.definition
        gram = make("random", 65, 0).gram
        assert torch.equal(solver.on("cuda", 65)(gram, None), ops.solve_mgda(gram))

    def test_what_it_remembers_comes_back(self) -> None:
        gram = make("random", 65, 0).gram
        state, other = equal(1, 65), equal(1, 65)
        found = ops.solve._solve_modo._on_host(gram, None, state, 1e-3, 0.1)
        assert torch.equal(found, ops.solve_modo(gram, state=other, gamma=1e-3, rho=0.1))
        assert torch.equal(state, other)
        assert not torch.equal(state, equal(1, 65))


def test_a_task_left_out_of_65_is_a_problem_of_64_to_the_last_bit() -> None:
    case = make("conflict", 65, 0)
    scale = torch.ones(1, 65, dtype=torch.float64)
    scale[0, 40] = 0.0
    kept = scale[0] != 0
    part = case.gram[:, kept][:, :, kept].contiguous()
    for name in SOLVERS:
        args, smaller = (
            [arg[places] if isinstance(arg, Tensor) else arg for arg in SOLVERS[name](65)]
            for places in (slice(None), kept)
        )
        found = kernel(name, case.gram, scale, *args)
        assert torch.equal(found[:, kept], kernel(name, part, None, *smaller)), name


def test_upgrad_does_not_depend_on_the_threads() -> None:
    case = make("conflict", 90, 0)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(ops.solve_upgrad(case.gram))
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


class TestEigenvalues:
    """Of G = D C D with orthogonal rows C, whose answers are known whatever D is."""

    @staticmethod
    def orthogonal(tasks: int, decades: float) -> tuple[Tensor, Tensor]:
        """A rotated diagonal: rows of lengths over ``decades``, orthogonal up to 1e-3."""
        g = torch.Generator().manual_seed(tasks)
        lengths = 10.0 ** (decades * (torch.rand(tasks, generator=g, dtype=torch.float64) - 0.5))
        rows = torch.eye(tasks, dtype=torch.float64)
        rows += 1e-3 * torch.randn(tasks, tasks, generator=g, dtype=torch.float64)
        return rows, lengths

    @pytest.mark.parametrize("decades", [0.0, 1.0, 3.0, 7.0, 14.0])
    @pytest.mark.parametrize("tasks", [65, 130])
    def test_config_makes_the_same_angle_with_every_task(self, tasks: int, decades: float) -> None:
        rows, lengths = self.orthogonal(tasks, decades)
        jacobian = rows * lengths.unsqueeze(1)
        product = jacobian @ jacobian.T
        w = ops.solve_config(product.unsqueeze(0))[0]
        # <ĝ_i, Jᵀw> without the rounding of long gradients: in units of their lengths
        unit = rows / rows.norm(dim=1, keepdim=True)
        progress = unit @ (unit.T @ (w * rows.norm(dim=1) * lengths))
        assert (progress / progress[0] - 1).abs().max() < 1e-10

    @pytest.mark.parametrize("decades", [0.0, 1.0, 3.0, 5.0, 7.0, 14.0])
    @pytest.mark.parametrize("tasks", [65, 130])
    def test_aligned_mtl_makes_the_gradients_orthogonal(self, tasks: int, decades: float) -> None:
        """With p = e_i the weights are row i of √σ G^{-1/2}: together, B G B = σ."""
        rows, lengths = self.orthogonal(tasks, decades)
        jacobian = rows * lengths.unsqueeze(1)
        gram = (jacobian @ jacobian.T).unsqueeze(0)
        gram = 0.5 * (gram + gram.transpose(1, 2))
        chosen = range(0, tasks, 9)
        b = torch.stack(
            [
                ops.solve_aligned_mtl(
                    gram, preference=torch.eye(tasks, dtype=torch.float64)[i].contiguous()
                )[0]
                for i in chosen
            ]
        )
        aligned = b @ jacobian
        found = aligned @ aligned.T
        sigma = found.diagonal().mean()
        off = found / sigma - torch.eye(len(found), dtype=torch.float64)
        assert off.abs().max() < 1e-9

    @pytest.mark.parametrize("family", ["square", "conflict", "graded", "duplicates"])
    @pytest.mark.parametrize("name", EIGEN)
    def test_hard_matrices(self, name: str, family: str) -> None:
        compare(name, [make(family, 66, 0)], None, rtol=1e-7)

    @pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
    def test_dependent_gradients_count_once(self, scale_mode: str) -> None:
        case = make("duplicates", 140, 0)
        found = ops.solve_aligned_mtl(case.gram, scale_mode=scale_mode)[0]
        once = 2.0 * case.gram[:, :70, :70].contiguous()
        wanted = 0.5 * ops.solve_aligned_mtl(once, scale_mode=scale_mode)[0]
        torch.testing.assert_close(found, torch.cat([wanted, wanted]), rtol=1e-8, atol=1e-12)

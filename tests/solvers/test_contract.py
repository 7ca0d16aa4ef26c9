"""What holds for every solver that is a function of the Gram matrix alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrices import cases, make
from merged import assert_same
from torch import Tensor

from mtl_ops import ops, reference

#: Name, and what follows ``gram`` and ``scale`` for T tasks: of the kernel, and of the definition.
SOLVERS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "solve_sum": lambda T: (),
    "solve_mean": lambda T: (),
    "solve_mgda": lambda T: (0.5 * preference(T) / (2 * T),),
    "solve_conicgrad": lambda T: (0.7,),
    "solve_gradops": lambda T: (0.0, False, None, ops.EXACT),
    "solve_dibs_mtl": lambda T: (5, 0.2),
    "solve_epo": lambda T: (losses(T), preference(T), 1e-4, False),
    "solve_pmgda": lambda T: (losses(T), preference(T), 1e-2, 0.95),
    "solve_ferero": lambda T: (losses(T), preference(T), 1.0, ops.EXACT),
    "solve_mgda_frank_wolfe": lambda T: (1e-3, 30),
    "solve_cagrad": lambda T: (0.5, 0, 0.0),
    "solve_upgrad": lambda T: (preference(T), True, None, 0.0, ops.EXACT),
    "solve_dualproj": lambda T: (preference(T), True, None, 0.0, ops.EXACT),
    "solve_imtl_g": lambda T: (True, None, ops.EXACT),
    "solve_config": lambda T: (preference(T), None, ops.EXACT),
    "solve_aligned_mtl": lambda T: (preference(T), 1, None, ops.EXACT),
    "solve_nash_mtl": lambda T: (1.0, None, ops.EXACT),
    "solve_fairgrad": lambda T: (2.0, None, ops.EXACT),
    "solve_krum": lambda T: (0, 2, True),
}

#: Where there is no common direction, or no rank to speak of, answers are rounding errors.
SOUND = ("random", "square", "shared_direction", "conflict", "graded", "sparse", "duplicates")


def preference(tasks: int) -> Tensor:
    return torch.linspace(0.5, 2.0, tasks, dtype=torch.float64)


def losses(tasks: int) -> Tensor:
    return 1.0 + torch.arange(tasks, dtype=torch.float64).mul(2.3).sin().mul(0.7)


def kernel(name: str, gram: Tensor, scale: Tensor | None, *args: Any) -> Tensor:
    found: Tensor = getattr(torch.ops.mtl_ops, name)(gram, scale, *args)
    return found


@pytest.mark.parametrize("name", SOLVERS)
class TestEverySolver:
    def test_a_task_left_out_is_a_smaller_problem_to_the_last_bit(self, name: str) -> None:
        for case in cases(sizes=(5, 9), seeds=1):
            kept = torch.arange(case.tasks) % 3 != 1
            scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64).unsqueeze(0)
            args, smaller = (
                [arg[part] if isinstance(arg, Tensor) else arg for arg in SOLVERS[name](case.tasks)]
                for part in (slice(None), kept)
            )
            found = kernel(name, case.gram, torch.where(kept, scale, 0.0), *args)
            part = case.gram[:, kept][:, :, kept].contiguous()
            wanted = kernel(name, part, scale[:, kept].contiguous(), *smaller)
            assert torch.equal(found[:, kept], wanted), str(case)
            assert not found[:, ~kept].any()

    def test_a_scale_is_a_scaled_gradient(self, name: str) -> None:
        for case in cases(SOUND, sizes=(2, 5), seeds=2):
            scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
            scaled = (scale.unsqueeze(1) * case.gram * scale).contiguous()
            args = SOLVERS[name](case.tasks)
            found = kernel(name, case.gram, scale.unsqueeze(0), *args)
            wanted = scale * kernel(name, scaled, None, *args)
            assert_same(case, found[0], wanted[0], rtol=1e-9, of_rows=1e-12)

    def test_all_tasks_left_out(self, name: str) -> None:
        nobody = torch.zeros(1, 3, dtype=torch.float64)
        assert not kernel(name, make("random", 3, 0).gram, nobody, *SOLVERS[name](3)).any()

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    def test_what_is_not_finite_is_nan(self, name: str, value: float) -> None:
        gram = make("random", 4, 0).gram.clone()
        gram[0, 1, 2] = gram[0, 2, 1] = value
        args = SOLVERS[name](4)
        assert kernel(name, gram, None, *args).isnan().all()
        assert getattr(reference, name)(gram, None, *args).isnan().all()
        scale = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
        assert kernel(name, gram, scale, *args).isfinite().all()
        scale[0, 3] = torch.nan
        found = kernel(name, gram, scale, *args)
        assert found[0, [0, 1, 3]].isnan().all()
        assert found[0, 2] == 0

    def test_segments_are_problems_of_their_own(self, name: str) -> None:
        gram = torch.cat([case.gram for case in cases(sizes=(6,), seeds=1)])
        args = SOLVERS[name](6)
        together = kernel(name, gram, None, *args)
        for s, part in enumerate(gram):
            assert torch.equal(together[s : s + 1], kernel(name, part.unsqueeze(0), None, *args))

    def test_the_same_bits_every_time(self, name: str) -> None:
        for case in cases(sizes=(7,), seeds=1):
            args = SOLVERS[name](7)
            first = kernel(name, case.gram, None, *args)
            assert torch.equal(kernel(name, case.gram.clone(), None, *args), first)

    def test_the_input_is_left_alone(self, name: str) -> None:
        gram = make("graded_conflict", 5, 0).gram
        before, args = gram.clone(), SOLVERS[name](5)
        kernel(name, gram, torch.ones(1, 5, dtype=torch.float64), *args)
        assert torch.equal(gram, before)

    def test_more_tasks_than_the_kernels_take(self, name: str) -> None:
        tasks = ops.MAX_TASKS["cpu"] + 2
        gram = torch.eye(tasks, dtype=torch.float64).unsqueeze(0)
        with pytest.raises(RuntimeError, match=r"T should be between 1 and 1024\. Found T = 1026"):
            kernel(name, gram, None, *SOLVERS[name](tasks))
        where = ops.solve if hasattr(ops.solve, name) else ops.solve_preference
        assert getattr(where, f"_{name}").on("cpu", tasks).__name__ == name
        # a definition of its own, for as many as there are
        case = make("shared_direction", 66, 0)
        found = getattr(reference, name)(case.gram, None, *SOLVERS[name](66))
        assert found.isfinite().all()
        assert found.shape == (1, 66)


# Frank-Wolfe takes the first of equals, and is stopped early.
@pytest.mark.parametrize("name", sorted(set(SOLVERS) - {"solve_mgda_frank_wolfe"}))
def test_renaming_the_tasks_renames_the_weights(name: str) -> None:
    for case in cases(SOUND, sizes=(3, 6), seeds=2):
        if case.family == "duplicates" and name in ("solve_krum", "solve_mgda"):
            continue  # their weights are not unique there
        order = torch.randperm(case.tasks, generator=torch.Generator().manual_seed(0))
        args, renamed = (
            [arg[places] if isinstance(arg, Tensor) else arg for arg in SOLVERS[name](case.tasks)]
            for places in (slice(None), order)
        )
        wanted = kernel(name, case.gram, None, *args)[:, order]
        found = kernel(name, case.gram[:, order][:, :, order].contiguous(), None, *renamed)
        back = torch.empty_like(found).index_copy_(1, order, found)
        original = torch.empty_like(wanted).index_copy_(1, order, wanted)
        assert_same(case, back[0], original[0], rtol=1e-8, of_rows=1e-11)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("bad", ["shape", "dtype", "strides", "scale"])
def test_kernels_check_what_they_get(name: str, bad: str) -> None:
    gram, scale = torch.eye(3, dtype=torch.float64).unsqueeze(0), None
    if bad == "shape":
        gram = gram[:, :2]
    elif bad == "dtype":
        gram = gram.float()
    elif bad == "strides":
        gram = torch.eye(4, dtype=torch.float64)[1:, 1:].unsqueeze(0)
    else:
        scale = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="should be"):
        kernel(name, gram, scale, *SOLVERS[name](3))


def test_no_solver_is_left_out() -> None:
    remember = {
        "solve_online_pcgrad",
        "solve_pcgrad",
        "solve_gradvac",
        "solve_adaptive_sharing",
        "solve_pcd",
        "solve_sdmgrad",
        "solve_modo",
    }
    assert set(SOLVERS) | remember == {name for name in ops.__all__ if name.startswith("solve_")}

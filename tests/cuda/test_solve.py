"""The solvers and the task scales on the GPU's kernels: what the CPU's answer to the same problem."""

from __future__ import annotations

from typing import Any

import matrices
import pytest
import torch
from samples import SAMPLES
from torch import Tensor

SOLVERS = sorted(name for name in SAMPLES if name.startswith("solve_"))

#: Nearly opposite or graded gradients are the hard ones; where there is no direction to agree on, there
#: is nothing to compare.
FAMILIES = ("random", "conflict", "graded", "duplicates")


def on(device: torch.device, args: tuple[Any, ...]) -> list[Any]:
    """Copies of the arguments on a device."""
    return [arg.to(device, copy=True) if isinstance(arg, Tensor) else arg for arg in args]


def arguments(name: str, tasks: int) -> tuple[Any, ...]:
    """The arguments of a solver after Gram matrix and scale, for two segments of T tasks."""

    def fit(arg: Any) -> Any:
        """A sample's argument for 3 tasks, repeated or cut to T."""
        if not isinstance(arg, Tensor):
            return arg
        if arg.dtype == torch.int64:
            generator = torch.Generator().manual_seed(tasks)
            drawn = [torch.randperm(tasks, generator=generator) for _ in range(2 * tasks)]
            orders = torch.stack(drawn).reshape(2, tasks, tasks)
            return orders if arg.dim() == 3 else orders[:, 0].contiguous()
        for dim, size in enumerate(arg.shape):
            if size == 3:
                arg = arg.index_select(dim, torch.arange(tasks) % 3)
        return arg.contiguous()

    return tuple(fit(arg) for arg in SAMPLES[name](torch.float64)[2:])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("tasks", [1, 2, 3, 6, 17])
def test_answers_what_the_cpu_answers(name: str, tasks: int, kernels) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(2, tasks, generator=generator, dtype=torch.float64) + 0.5
    scale[1, tasks // 2] = 0.0
    for family in FAMILIES:
        gram = torch.cat([matrices.make(family, tasks, seed).gram for seed in (0, 1)])
        args = (gram, scale, *arguments(name, tasks))
        here, there = on(torch.device("cpu"), args), on(kernels.device, args)
        expected = getattr(torch.ops.mtl_ops, name)(*here)
        found = getattr(kernels.ops, name)(*there)
        size = expected.abs().max().clamp(min=1e-300).item()
        torch.testing.assert_close(found.cpu(), expected, rtol=0.0, atol=1e-7 * size)
        for one, two in zip(there[2:], here[2:], strict=True):
            if isinstance(one, Tensor):  # what it remembers
                torch.testing.assert_close(one.cpu(), two, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", SOLVERS)
def test_sixty_four_tasks(name: str, kernels) -> None:
    """The most shared memory that a solver asks for."""
    if kernels.name == "emulated" and name in ("solve_upgrad", "solve_gradvac"):
        pytest.skip("takes the emulator too long")
    gram = torch.cat([matrices.make("random", 64, seed).gram for seed in (0, 1)])
    args = (gram, None, *arguments(name, 64))
    expected = getattr(torch.ops.mtl_ops, name)(*on(torch.device("cpu"), args))
    found = getattr(kernels.ops, name)(*on(kernels.device, args))
    size = expected.abs().max().item()
    torch.testing.assert_close(found.cpu(), expected, rtol=0.0, atol=1e-7 * size)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_bits_every_time(name: str, kernels) -> None:
    gram = torch.cat([matrices.make("conflict", 5, seed).gram for seed in (0, 1)])
    args = (gram, None, *arguments(name, 5))

    def run() -> list[Tensor]:
        return [getattr(kernels.ops, name)(*on(kernels.device, args))]

    first, *others = kernels.again(run)
    assert all(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.parametrize("segments", [1, 3, 150])  # the last with more weights than arguments hold
@pytest.mark.parametrize("skip_nonfinite", [False, True])
def test_task_scales(segments: int, skip_nonfinite: bool, kernels) -> None:
    tasks = 5
    gram = matrices.make("graded", tasks, 0).gram.repeat(segments, 1, 1)
    gram *= torch.arange(1, segments + 1).reshape(-1, 1, 1)
    gram[0, 2, 2] = float("nan")
    task_weights = [float(at % 4) for at in range(segments * tasks)]
    counts = [torch.arange(tasks), torch.arange(tasks).to(kernels.device)]
    rest = (task_weights, 1.5, skip_nonfinite)
    expected = torch.ops.mtl_ops.task_scales(gram, *rest, counts[0])
    found = kernels.ops.task_scales(gram.to(kernels.device), *rest, counts[1])
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-15, atol=0.0, equal_nan=True)
    assert torch.equal(counts[1].cpu(), counts[0])

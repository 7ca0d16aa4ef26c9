"""How many kernels a merge takes, counted on the emulator, and that nothing else comes of taking fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import emulated_cuda
import matrices
import pytest
import torch
from surrounded import Surrounded

from mtl_ops import ops, reference

#: Parameters of a ResNet-18: with eight tasks, tables of 6 KB.
PARAMETERS = 62


def count(run: Callable[[], Any]) -> int:
    before = emulated_cuda.launches()
    run()
    return emulated_cuda.launches() - before


def upgrad(emulator: Any, gram: torch.Tensor, scale: torch.Tensor) -> Any:
    return emulator.solve_upgrad(gram, scale, None, True, None, 0.0, ops.EXACT)


@pytest.mark.parametrize(
    ("tasks", "dtype"),
    [(2, torch.bfloat16), (4, torch.float64), (8, torch.float32), (8, torch.float16)],
)
@pytest.mark.parametrize("parameters", [5, PARAMETERS])
def test_a_merge_takes_four(tasks: int, dtype: torch.dtype, parameters: int, emulator: Any) -> None:
    if parameters == PARAMETERS and tasks < 8:
        pytest.skip("tables are inside larger arguments for 5 to 8 tasks")
    memory = Surrounded(torch.device("cpu"))
    sizes = [1 + p % 5 for p in range(parameters)]
    rows, out = memory.rows(tasks, sizes, dtype), memory.outs(sizes, dtype)
    expected = [target.clone() for target in out]

    def merge() -> None:
        gram, scale = emulator.gram_and_scales(
            rows, tasks, [], None, [1.0] * tasks, 2.0, True, None
        )
        weights = upgrad(emulator, gram, scale)
        found = emulator.merge_(out, rows, weights, gram, [], 0.5, None, False)
        wanted = reference.merge_(expected, rows, weights, gram, [], 0.5, None, False)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0.0)

    assert count(merge) == 4
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    memory.assert_untouched()


def test_tables_that_no_argument_holds_take_a_launch_for_each_32_kb(emulator: Any) -> None:
    """A pointer for each gradient, and 32 bytes a parameter."""
    tasks, parameters = 8, 400
    memory = Surrounded(torch.device("cpu"))
    rows = memory.rows(tasks, [1] * parameters, torch.float32)
    assert count(lambda: emulator.gram(rows, tasks, [], None)) == 2 + 2
    found = emulator.gram(rows, tasks, [], None)
    torch.testing.assert_close(found, reference.gram(rows, tasks, [], None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tasks", [3, 12])
@pytest.mark.parametrize("segments", [1, 2, 40])
def test_both_in_one_call_have_the_bits_of_one_after_the_other(
    tasks: int, segments: int, kernels: Any
) -> None:
    """In one block, of few segments, and in many."""
    memory = Surrounded(kernels.device)
    sizes = [7 + 11 * (s % 3) for s in range(segments)] + [5]
    rows = memory.rows(tasks, sizes, torch.float32, missing=0.2)
    rows[0] = memory.make(sizes[0], torch.float32)
    rows[-1] = torch.full((5,), torch.inf, device=kernels.device)  # of the last task
    home = [*range(segments), 0]
    weights = [float(at % 3) for at in range(segments * tasks - 1)] + [1.0]
    counts = [torch.arange(tasks, device=kernels.device) for _ in range(2)]
    gram = kernels.ops.gram(rows, tasks, home, None)
    expected = [gram, kernels.ops.task_scales(gram, weights, 3.0, True, counts[0])]

    def run() -> list[torch.Tensor]:
        skipped = torch.arange(tasks, device=kernels.device)
        found = kernels.ops.gram_and_scales(rows, tasks, home, None, weights, 3.0, True, skipped)
        return [*found, skipped]

    for found in kernels.again(run):
        torch.testing.assert_close(
            found, [*expected, counts[0]], rtol=0.0, atol=0.0, equal_nan=True
        )
    assert (counts[0] != counts[1]).any()


@pytest.mark.parametrize("tasks", [1, 4, 8, 9])
def test_upgrad_adds_up_its_terms_as_they_come(tasks: int, kernels: Any) -> None:
    """Up to eight tasks in the block that solves them; every order of threads gives the same bits."""
    gram = torch.cat([matrices.make("conflict", tasks, seed).gram for seed in (0, 1, 2)])
    expected = ops.solve_upgrad(gram, None)
    there = gram.to(kernels.device)
    results = kernels.again(lambda: [upgrad(kernels.ops, there, None).cpu()])
    assert all(torch.equal(one, results[0][0]) for (one,) in results)
    torch.testing.assert_close(results[0][0], expected, rtol=1e-7, atol=1e-9)
    if kernels.name == "emulated":
        assert count(lambda: upgrad(kernels.ops, there, None)) == (1 if tasks <= 8 else 2)


@pytest.mark.parametrize("segments", [1, 3, 90])
def test_the_clip_of_few_and_of_many_segments(segments: int, kernels: Any) -> None:
    """Made by every block for itself, or by one before: of the same rows it is the same."""
    tasks = 7
    memory = Surrounded(kernels.device)
    rows, out = (
        memory.rows(tasks, [40] * segments, torch.float64),
        memory.outs([40] * segments, torch.float64),
    )
    gram = reference.gram(rows, tasks, range(segments), None)
    weights = torch.rand(
        segments, tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    weights[-1, 2] = 0.0
    gram[-1, 2] = gram[-1, :, 2] = torch.nan  # of a task that has no weight there
    weights = weights.to(kernels.device)
    expected = [target.clone() for target in out]
    rest = (gram, list(range(segments)), 0.25, None, False)
    wanted = reference.merge_(expected, rows, weights, *rest)
    found = kernels.ops.merge_(out, rows, weights, *rest)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    gram[0, 0, 0] = torch.nan
    assert kernels.ops.merge_(out, rows, weights, *rest).isnan()
    assert all(target.isnan().all() for target in out)

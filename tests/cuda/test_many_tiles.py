"""More tiles of columns than blocks: every block goes through several, on numbers that all differ.

On a GPU 4 million of them; on the emulator a few thousand, and a device of one multiprocessor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import emulated_cuda
import pytest
import torch
from surrounded import Surrounded
from torch import Tensor

from mtl_ops import reference

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TASKS = (2, 4, 8, 12, 24, 40)
OFFSETS = (0, 3)  # elements from a 16-byte boundary

#: Of an element of a merged gradient, in units of its size.
MERGED = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}

#: What the emulator has time for.
EMULATED = {
    (2, torch.float32): 26_000,
    (8, torch.float32): 7_000,
    (12, torch.bfloat16): 9_000,
    (24, torch.float32): 2_000,
    (40, torch.float64): 700,
}


def size_for(kernels: Any, tasks: int, dtype: torch.dtype) -> int:
    """Elements of a gradient; the test is skipped where it would take too long."""
    if kernels.name == "cuda":
        return 4_000_000 + 13
    if (tasks, dtype) not in EMULATED:
        pytest.skip("takes the emulator too long")
    return EMULATED[tasks, dtype] + 13


@pytest.fixture
def kernels(kernels: Any) -> Iterator[Any]:
    """The emulator with one multiprocessor."""
    on = emulated_cuda.emulated(processors=1) if kernels.name == "emulated" else nullcontext()
    with on:
        yield kernels


def near(found: Tensor, expected: Tensor) -> bool:
    """Each entry of a Gram matrix to 3e-7 of the product of its rows' norms."""
    norms = expected.diagonal(dim1=1, dim2=2).sqrt()
    return bool(((found - expected).abs() <= 3e-7 * norms.unsqueeze(1) * norms.unsqueeze(2)).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", TASKS)
def test_gram(tasks: int, dtype: torch.dtype, kernels: Any) -> None:
    size = size_for(kernels, tasks, dtype)
    for offset in OFFSETS:
        rows = Surrounded(kernels.device).rows(tasks, [size], dtype, offset)
        expected = reference.gram(rows, tasks, [], None)
        if kernels.name == "emulated":
            emulated_cuda.most_stages()
        assert near(kernels.ops.gram(rows, tasks, [], None), expected)
        if kernels.name == "emulated" and tasks > 8:
            # two or three are on their way before the first is used: the ring has gone round
            assert emulated_cuda.most_stages() >= 3 + 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", TASKS)
def test_merge(tasks: int, dtype: torch.dtype, kernels: Any) -> None:
    size = size_for(kernels, tasks, dtype)
    for offset, accumulate in zip(OFFSETS, (False, True), strict=True):
        memory = Surrounded(kernels.device, fill=7.0)
        rows, out = memory.rows(tasks, [size], dtype, offset), memory.outs([size], dtype, offset)
        expected = [out[0].clone()]
        weights = torch.rand(1, tasks, generator=memory.generator, dtype=torch.float64)
        rest = (weights.to(kernels.device), None, [], None, None, accumulate)
        reference.merge_(expected, rows, *rest)
        kernels.ops.merge_(out, rows, *rest)
        torch.testing.assert_close(out, expected, rtol=MERGED[dtype], atol=MERGED[dtype])
        memory.assert_untouched()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("merge_graddrop_", (5, 7, None, [])),
        ("merge_median_", ()),
        ("merge_trimmed_mean_", (1,)),
        ("merge_sign_agreement_", (0.5, True)),
    ],
)
def test_coordinates(
    name: str, given: tuple[Any, ...], tasks: int, dtype: torch.dtype, kernels: Any
) -> None:
    size = size_for(kernels, tasks, dtype)
    for offset in OFFSETS if kernels.name == "cuda" else OFFSETS[1:]:
        memory = Surrounded(kernels.device, fill=7.0)
        rows, out = memory.rows(tasks, [size], dtype, offset), memory.outs([size], dtype, offset)
        expected = [out[0].clone()]
        leak = ([0.25] * tasks,) if name == "merge_graddrop_" else ()
        rest = (None, [], None, False, *leak, *given)
        square = getattr(reference, name)(expected, rows, *rest)
        found = getattr(kernels.ops, name)(out, rows, *rest)
        torch.testing.assert_close(out, expected, rtol=MERGED[dtype], atol=MERGED[dtype])
        torch.testing.assert_close(found, square, rtol=MERGED[dtype], atol=0.0)
        memory.assert_untouched()


def test_a_cap_on_the_blocks(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tools that slow kernels down: so that tensors of a few thousand elements are enough."""
    size = 9_000
    rows = Surrounded(kernels.device).rows(12, [size], torch.float32)
    expected = reference.gram(rows, 12, [], None)
    monkeypatch.setenv("MTL_OPS_CUDA_PROCESSORS", "1")
    if kernels.name == "emulated":
        with emulated_cuda.emulated(processors=40):
            emulated_cuda.most_stages()
            found = kernels.ops.gram(rows, 12, [], None)
            assert emulated_cuda.most_stages() >= 3 + 3
    else:
        found = kernels.ops.gram(rows, 12, [], None)
    assert near(found, expected)
    for wrong in ("0", "-2", "two", "1.5"):
        monkeypatch.setenv("MTL_OPS_CUDA_PROCESSORS", wrong)
        with pytest.raises(RuntimeError, match=f"should be a positive integer. Found {wrong}"):
            kernels.ops.gram(rows, 12, [], None)


def test_shared_memory_is_allowed_once(emulator) -> None:
    """Two threads that launch one kernel for different numbers of tasks take nothing from each other."""

    def solve(tasks: int) -> None:
        gram = torch.eye(tasks, dtype=torch.float64).unsqueeze(0)
        emulator.solve_aligned_mtl(gram, None, None, 0, None, 2.0**-50)

    with emulated_cuda.emulated():
        solve(64)
        before = emulated_cuda.limits_set()
        for tasks in (60, 64, 57):
            solve(tasks)
        assert emulated_cuda.limits_set() == before

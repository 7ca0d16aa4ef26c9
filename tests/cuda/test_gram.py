"""The Gram matrix on the GPU's kernels."""

from __future__ import annotations

import emulated_cuda
import pytest
import torch
from surrounded import Surrounded, dtypes_of
from torch import Tensor

from mtl_ops import reference

#: On both sides of every width that the kernels treat by itself.
TASKS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 24, 32, 33, 41, 64)

SIZES = (1500, 3, 17, 0, 130)

#: Products in float32 lanes, added up in float64 (float64 gradients: in float64 throughout).
TOLERANCE = {torch.float64: 1e-13}


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Each entry to ``tolerance`` times the product of the two norms; NaN where it should be."""
    norms = expected.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    largest = expected[expected.isfinite()].abs().max()
    norms = torch.where(norms.isfinite(), norms, largest)  # of a row with an Inf or a NaN
    bound = tolerance * norms.unsqueeze(1) * norms.unsqueeze(2)
    assert found.dtype == torch.float64
    assert torch.equal(found.isnan(), expected.isnan())
    near = (found - expected).abs() <= bound
    assert (near | found.isnan() | (found == expected)).all()
    assert torch.equal(found.nan_to_num(), found.transpose(1, 2).nan_to_num())


@pytest.mark.parametrize(("tasks", "dtype"), dtypes_of(TASKS, others=(2, 8, 9, 41)))
def test_is_the_definition(tasks: int, dtype: torch.dtype, kernels) -> None:
    memory = Surrounded(kernels.device)
    rows = memory.rows(tasks, SIZES, dtype, offset=1)
    found = kernels.ops.gram(rows, tasks, [], None)
    expected = reference.gram(rows, tasks, [], None)
    assert_same(found, expected, TOLERANCE.get(dtype, 3e-7))


@pytest.mark.parametrize("offset", [0, 3, None])
@pytest.mark.parametrize("tasks", [1, 3, 8, 12, 40])
def test_any_alignment_with_gradients_missing(tasks: int, offset: int | None, kernels) -> None:
    memory = Surrounded(kernels.device)
    rows = memory.rows(tasks, SIZES, torch.float32, offset, missing=0.3)
    rows[0] = memory.make(SIZES[0], torch.float32)
    segments = [0, 2, 1, 0, 0]
    for clip_value in (None, 0.5):
        found = kernels.ops.gram(rows, tasks, segments, clip_value)
        expected = reference.gram(rows, tasks, segments, clip_value)
        assert_same(found, expected, 3e-7)


@pytest.mark.parametrize("tasks", [2, 8, 20])
def test_dtypes_mix_across_parameters(tasks: int, kernels) -> None:
    memory = Surrounded(kernels.device)
    kinds = [torch.bfloat16, torch.float64, torch.float32, torch.float16, torch.float32]
    rows = [memory.make(70, kind) for _ in range(tasks) for kind in kinds]
    segments = [0, 0, 1, 0, 0]
    found = kernels.ops.gram(rows, tasks, segments, None)
    assert_same(found, reference.gram(rows, tasks, segments, None), 3e-7)


@pytest.mark.parametrize("tasks", [4, 8, 10])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("clip_value", [None, 1.0])
def test_what_is_not_finite_spoils_only_its_own_products(
    tasks: int, value: float, clip_value: float | None, kernels
) -> None:
    """A missing gradient is no row of zeros, whose products with an Inf would be NaN."""
    memory = Surrounded(kernels.device)
    rows = memory.rows(tasks, [40, 50], torch.float32)
    rows[0][7] = value  # of task 0; task 1 does not reach this parameter
    rows[2] = None
    found = kernels.ops.gram(rows, tasks, [], clip_value)
    assert found[0, 0, 1].isfinite()
    assert not found[0, 0, 0].isfinite()
    assert_same(found, reference.gram(rows, tasks, [], clip_value), 3e-7)


@pytest.mark.parametrize("tasks", [2, 8, 12, 33])
def test_same_bits_every_time(tasks: int, kernels) -> None:
    memory = Surrounded(kernels.device)
    rows = memory.rows(tasks, [1500, 5, 700], torch.float32, None, missing=0.2)

    def run() -> list[Tensor]:
        return [kernels.ops.gram(rows, tasks, [], None)]

    first, *others = kernels.again(run)
    assert all(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.parametrize("tasks", [1, 8, 16])
def test_long_sums_keep_growing(tasks: int, kernels) -> None:
    """A single float32 sum of this many equal numbers would not."""
    size = 60_000 if kernels.name == "emulated" else 40_000_000
    row = torch.full((size,), 0.1, dtype=torch.float32, device=kernels.device)
    found = kernels.ops.gram([row] * tasks, tasks, [], None)
    exact = size * torch.tensor(0.1).double().item() ** 2
    assert (found / exact - 1.0).abs().max() < 1e-6  # of 256 float32 additions


def test_thousands_of_tensors(kernels) -> None:
    """More than a kernel's arguments hold."""
    count = 60 if kernels.name == "emulated" else 5000
    for tasks in (3, 11):
        memory = Surrounded(kernels.device)
        sizes = [p % 23 for p in range(count)]
        rows = memory.rows(tasks, sizes, torch.float32)
        segments = [p // 7 for p in range(count)]
        found = kernels.ops.gram(rows, tasks, segments, None)
        expected = reference.gram(rows, tasks, segments, None)
        assert_same(found, expected, 3e-7)


def test_empty_tensors_only(kernels) -> None:
    empty = torch.empty(0, device=kernels.device)
    found = kernels.ops.gram([empty, empty], 2, [], None)
    assert torch.equal(found.cpu(), torch.zeros(1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize("processors", [1, 2, 50])
@pytest.mark.parametrize("shared_memory", [99 * 1024, 227 * 1024])
@pytest.mark.parametrize("tasks", [8, 13, 40])
def test_any_device(tasks: int, shared_memory: int, processors: int, emulator) -> None:
    memory = Surrounded(torch.device("cpu"))
    rows = memory.rows(tasks, [900, 5], torch.float32)
    expected = reference.gram(rows, tasks, [], None)
    with emulated_cuda.emulated(processors=processors, shared_memory=shared_memory, order=2):
        found = emulator.gram(rows, tasks, [], None)
    assert_same(found, expected, 3e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 3, 8, 13, 41])
def test_products_out_of_the_range_of_float32(tasks: int, dtype: torch.dtype, kernels) -> None:
    memory = Surrounded(kernels.device)
    sizes = ((1e30, 1e-30), (1e25, 1e-3), (1.0, 1e-28), (1e-21, 1e-33))
    if kernels.name == "emulated" and tasks > 40:
        sizes = sizes[:1]  # half a minute of all
    for large, small in sizes:
        rows = memory.rows(tasks, [700, 5, 1], dtype, 1, missing=0.2)
        rows[0] = memory.make(700, dtype, 1)
        for place, row in enumerate(rows):
            if row is not None:
                row *= large if place // 3 % 2 else small
        segments = [0, 1, 0]
        for clip_value in (None, 1e24):
            found = kernels.ops.gram(rows, tasks, segments, clip_value)
            expected = reference.gram(rows, tasks, segments, clip_value)
            assert_same(found, expected, 1e-6)


@pytest.mark.parametrize("tasks", [2, 11])
def test_zeros_infinities_and_what_float32_cannot_hold(tasks: int, kernels) -> None:
    """Each by itself and together: what is out of range is mended, what is not finite stays."""
    memory = Surrounded(kernels.device)
    for first, second in ((0.0, 1e25), (0.0, 1e-28), (float("inf"), 1e25), (float("nan"), 1e-28)):
        rows = memory.rows(tasks, [300], torch.float32)
        rows[0].fill_(first)
        rows[1] *= second
        found = kernels.ops.gram(rows, tasks, [], None)
        assert_same(found, reference.gram(rows, tasks, [], None), 3e-7)

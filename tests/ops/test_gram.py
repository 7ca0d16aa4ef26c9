"""The Gram matrix of the task gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from task_rows import (
    TASKS,
    assert_same_gram,
    make_rows,
    some_missing,
    strided,
    with_threads,
)
from torch import Tensor

import mtl_ops
from mtl_ops import ops, reference

#: Products in float32 lanes, added up in float64 (float64 gradients: in float64 throughout).
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.bfloat16: 1e-6,
    torch.float16: 1e-6,
}


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("clip_value", [None, 0.7])
def test_is_the_definition(
    tasks: int, clip_value: float | None, dtype: torch.dtype, device: torch.device
) -> None:
    rows = make_rows(tasks, dtype=dtype, device=device, missing=some_missing(tasks))
    segments = [0, 1, 1, 2, 0, 2, 1]
    found = ops.gram(rows, tasks, segments, clip_value)
    expected = reference.gram(rows, tasks, segments, clip_value)
    assert_same_gram(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("tasks", [2, 8, 20])
def test_dtypes_mix_across_parameters(tasks: int, device: torch.device) -> None:
    kinds = [torch.bfloat16, torch.float64, torch.float32, torch.float16, torch.float32]
    shapes = [(300,), (5, 7), (9000,), (11,), (2, 3)]
    rows = make_rows(tasks, shapes, kinds, device, missing=[(1, 2)])
    assert_same_gram(ops.gram(rows, tasks), reference.gram(rows, tasks, [], None), 1e-6)


@pytest.mark.parametrize(
    "length", [1, 15, 16, 31, 32, 33, 255, 256, 257, 511, 4096, 20_000, 70_001]
)
def test_every_element_counts_once(length: int, dtype: torch.dtype, device: torch.device) -> None:
    ones = torch.ones(length, dtype=dtype, device=device)
    assert (ops.gram([ones, -ones, ones], 3).abs() == length).all()


class TestLayouts:
    def expect(self, rows: list[Tensor | None], tasks: int) -> None:
        plain = [None if row is None else row.contiguous().clone() for row in rows]
        found = ops.gram(rows, tasks)
        assert_same_gram(found, reference.gram(plain, tasks, [], None), 1e-6)

    def test_strided(self, dtype: torch.dtype) -> None:
        rows = make_rows(3, dtype=dtype)
        self.expect([strided(row) for row in rows if row is not None], 3)

    def test_one_task_strided(self) -> None:
        rows = make_rows(3, [(50, 41)])
        self.expect([rows[0], strided(rows[1]), rows[2]], 3)  # type: ignore[arg-type]

    def test_channels_last_in_all_some_or_one_of_the_tasks(self) -> None:
        rows = [row for row in make_rows(3, [(4, 6, 5, 7)]) if row is not None]
        for last in ({0, 1, 2}, {0, 1}, {2}):
            self.expect(
                [
                    row.to(memory_format=torch.channels_last) if t in last else row
                    for t, row in enumerate(rows)
                ],
                3,
            )

    def test_transposed(self) -> None:
        rows = [row.T for row in make_rows(3, [(40, 60)]) if row is not None]
        self.expect(list(rows), 3)
        self.expect([rows[0], rows[1].contiguous(), rows[2]], 3)

    def test_expanded(self) -> None:
        one = torch.tensor(2.0)
        self.expect([one.expand(30, 5), torch.randn(5).expand(30, 5), torch.randn(30, 5)], 3)

    def test_unaligned(self) -> None:
        flat = torch.randn(3, 10_001)
        self.expect([flat[0, 1:], flat[1, 1:], flat[2, 1:]], 3)
        self.expect(list(flat), 3)

    def test_one_tensor_for_two_tasks(self) -> None:
        row = torch.randn(1000)
        found = ops.gram([row, row, -row], 3)[0]
        assert (found.abs() == found[0, 0]).all()
        assert (found[2, :2] < 0).all()


class TestMissing:
    def test_a_task_that_reaches_nothing_has_zeros(self) -> None:
        found = ops.gram([torch.ones(5), None, torch.ones(5)], 3)[0]
        assert (found[1] == 0).all()
        assert (found[0, [0, 2]] == 5).all()

    def test_a_parameter_that_no_task_reaches(self) -> None:
        found = ops.gram([torch.ones(5), None, torch.ones(5), None], 2, [0, 1])
        assert (found[1] == 0).all()

    def test_only_empty_parameters(self) -> None:
        assert (ops.gram([torch.ones(0), torch.ones(0, 3)], 1) == 0).all()

    def test_no_gradient_at_all(self) -> None:
        with pytest.raises(ValueError, match="`rows` should hold at least one tensor"):
            ops.gram([None, None], 2)


class TestNonFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("place", [0, 100, 4132])
    def test_stays_in_its_row(
        self, value: float, place: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows = make_rows(5, [(4133,)], dtype, device)
        clean = ops.gram([rows[t] for t in (0, 1, 3, 4)], 4)[0]
        assert rows[2] is not None
        rows[2][place] = value
        found = ops.gram(rows, 5)[0]
        others = torch.tensor([0, 1, 3, 4], device=device)
        assert not found[2].isfinite().any()
        torch.testing.assert_close(found[others][:, others], clean, rtol=1e-6, atol=1e-3)

    def test_a_clamp_does_not_hide_it(self, dtype: torch.dtype, device: torch.device) -> None:
        for value in (float("nan"), float("inf"), -float("inf")):
            row = torch.ones(100, dtype=dtype, device=device)
            row[70] = value
            assert ops.gram([row], 1, clip_value=0.5).isnan().all()


class TestPrecision:
    def test_long_sums_do_not_stick(self) -> None:
        # one float32 accumulator would stop at 2^24
        ones = torch.ones(40_000_000)
        assert ops.gram([ones], 1).item() == len(ones)

    def test_nearly_opposite_gradients(self) -> None:
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(300_000, generator=generator)
        other = -row + 1e-3 * torch.randn(300_000, generator=generator)
        gram = ops.gram([row, other], 2)[0]
        ones = torch.ones(2, dtype=torch.float64)
        exact = (row.double() + other.double()).square().sum()
        assert abs(ones @ gram @ ones / exact - 1) < 0.02  # float32 sums: wrong by 150%

    def test_gradients_whose_squares_leave_half_precision(self) -> None:
        row = torch.full((1000,), 6e4, dtype=torch.float16)
        assert ops.gram([row], 1).item() == pytest.approx(1000 * float(row[0]) ** 2, rel=1e-6)


def test_the_bits_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    rows = make_rows(5, [(200_000,), (7,), (90_001,)], dtype, missing=[(2, 0)])
    first, *others = with_threads(lambda: [ops.gram(rows, 5, [0, 0, 1])])
    for other in others:
        assert torch.equal(first[0], other[0])


def test_more_elements_than_32_bits_can_count() -> None:
    # Pages that nobody wrote to take no memory: only the few elements set here do.
    length = 2**31 + 70_001
    rows = [
        torch.from_numpy(np.zeros(length, dtype=np.uint16)).view(torch.bfloat16) for _ in range(2)
    ]
    for place, value in ((0, 1.0), (2**31 - 1, 2.0), (2**31, 4.0), (length - 1, 8.0)):
        rows[0][place] = value
    rows[1][2**31] = 16.0
    rows[1][5000] = 32.0
    expected = torch.tensor([[1.0 + 4 + 16 + 64, 64.0], [64.0, 16.0**2 + 32.0**2]])
    assert torch.equal(ops.gram(rows, 2)[0], expected.double())


class TestErrors:
    def gram(
        self, rows: list[Tensor | None], tasks: int, segments: list[int] | None = None
    ) -> None:
        torch.ops.mtl_ops.gram(rows, tasks, segments or [], None)

    @pytest.mark.parametrize("tasks", [0, -1, 1025])
    def test_number_of_tasks(self, tasks: int) -> None:
        with pytest.raises(RuntimeError, match=f"between 1 and 1024. Found T = {tasks}"):
            self.gram([torch.ones(2)] * max(tasks, 1), tasks)

    def test_number_of_gradients(self) -> None:
        with pytest.raises(RuntimeError, match=r"T times P tensors. Found 3 tensors for T = 2"):
            self.gram([torch.ones(2)] * 3, 2)

    def test_segments(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"one segment for each of the 2 parameters. Found 1"
        ):
            self.gram([torch.ones(2)] * 4, 2, [0])
        with pytest.raises(RuntimeError, match=r"should not be negative. Found -1"):
            self.gram([torch.ones(2)] * 4, 2, [0, -1])

    def test_shapes_of_one_parameter(self) -> None:
        with pytest.raises(RuntimeError, match="parameter 1 should have one shape: task 1"):
            self.gram([torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(1, 2)], 2)

    def test_dtypes_of_one_parameter(self) -> None:
        with pytest.raises(RuntimeError, match="parameter 0 should have one dtype: task 1"):
            self.gram([torch.ones(2), torch.ones(2).double()], 2)

    @pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.bool])
    def test_other_dtypes(self, kind: torch.dtype) -> None:
        with pytest.raises(RuntimeError, match="should be float32, float64, bfloat16 or float16"):
            self.gram([torch.ones(2, dtype=kind)], 1)


class TestRange:
    """Products of float32 and bfloat16 elements that float32 does not hold."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        "sizes", [(1e25,), (1e-21,), (1e-30,), (1e-36,), (1e30, 1e-30), (1.0, 1e-28, 1e22)]
    )
    @pytest.mark.parametrize("tasks", [1, 3, 8, 13, 41])
    def test_norms_of_any_size(
        self, tasks: int, sizes: tuple[float, ...], dtype: torch.dtype
    ) -> None:
        rows = make_rows(tasks, [(300,), (7, 5), (9000,)], dtype=dtype, missing=[(0, 1)])
        rows = [
            None if row is None else row * sizes[place // 3 % len(sizes)]
            for place, row in enumerate(rows)
        ]
        segments = [0, 1, 0]
        found = ops.gram(rows, tasks, segments)
        assert_same_gram(found, reference.gram(rows, tasks, segments, None), TOLERANCE[dtype])

    def test_only_the_segments_concerned_change(self) -> None:
        rows = make_rows(3, [(500,), (500,)])
        alone = ops.gram(rows, 3, [0, 1])
        rows[0] = rows[0] * 1e30  # type: ignore[operator]
        assert torch.equal(ops.gram(rows, 3, [0, 1])[1], alone[1])

    @pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
    def test_what_is_not_finite_stays_so_beside_what_overflows(self, value: float) -> None:
        rows = [torch.randn(5000), 1e25 * torch.randn(5000), torch.randn(5000)]
        rows[0][4321] = value
        found = ops.gram(rows, 3)[0]
        assert not found[0].isfinite().any()
        assert found[1:, 1:].isfinite().all()

    @pytest.mark.parametrize("zero", [0.0, -0.0])
    def test_zeros_stay_beside_what_vanishes(self, zero: float) -> None:
        found = ops.gram([torch.full((5000,), zero), 1e-30 * torch.ones(5000)], 2)[0]
        assert (found[0] == 0).all()
        assert abs(float(found[1, 1]) / 5e-57 - 1) < 1e-6

    def test_clipped_elements_do_not_overflow(self) -> None:
        rows = [1e30 * torch.randn(500), torch.randn(500)]
        expected = reference.gram(rows, 2, [], 2.0)
        assert_same_gram(ops.gram(rows, 2, [], 2.0), expected, 1e-6)

    def test_bits_do_not_depend_on_the_threads(self) -> None:
        rows = [1e25 * torch.randn(90_000), 1e-25 * torch.randn(90_000)]
        first, *others = with_threads(lambda: [ops.gram(rows, 2)])
        assert all(torch.equal(first[0], other[0]) for other in others)

    @pytest.mark.parametrize("size", [1e25, 1e-25])
    def test_conflict_is_seen(self, size: float) -> None:
        rows = size * torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        d = mtl_ops.merge(rows, "upgrad") / size
        torch.testing.assert_close(d, torch.tensor([0.25, 0.75]))

"""The merged gradient."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from task_rows import (
    TASKS,
    assert_rounded,
    make_out,
    make_rows,
    make_weights,
    some_missing,
    strided,
    with_threads,
)
from torch import Tensor

from mtl_ops import ops, reference

SEGMENTS = [0, 1, 1, 2, 0, 2, 1]


def exact(
    rows: list[Tensor | None],
    weights: Tensor,
    segments: list[int],
    clip_value: float | None = None,
    into: list[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """``Σ w g (+ into)`` in float64, and the sum of the magnitudes of its terms."""
    tasks = weights.shape[1]
    count = len(rows) // tasks
    home = segments or [0] * count
    sums, sizes = [], []
    for p in range(count):
        terms = [] if into is None else [into[p].double()]
        for t, row in enumerate(rows[p::count]):
            weight = weights[home[p], t]
            if row is not None and weight != 0:
                limit = math.inf if clip_value is None else clip_value
                terms.append(weight * row.double().clamp(-limit, limit))
        like = next(row for row in rows[p::count] if row is not None)
        stack = torch.stack(terms) if terms else torch.zeros(1, *like.shape, dtype=torch.float64)
        sums.append(stack.sum(dim=0))
        sizes.append(stack.abs().sum(dim=0))
    return sums, sizes


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("clip_value", [None, 0.7])
@pytest.mark.parametrize("accumulate", [False, True])
def test_is_the_weighted_sum(
    tasks: int,
    clip_value: float | None,
    accumulate: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    rows = make_rows(tasks, dtype=dtype, device=device, missing=some_missing(tasks))
    weights = make_weights(3, tasks, device)
    out = make_out(rows, len(SEGMENTS))
    into = [tensor.clone() for tensor in out] if accumulate else None
    expected, sizes = exact(rows, weights, SEGMENTS, clip_value, into)
    scale = ops.merge_(
        out, rows, weights, segments=SEGMENTS, clip_value=clip_value, accumulate=accumulate
    )
    assert scale == 1
    assert_rounded(out, expected, sizes)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("max_norm", [0.1, 1e9])
def test_is_the_definition(
    accumulate: bool, max_norm: float, dtype: torch.dtype, device: torch.device
) -> None:
    rows = make_rows(5, dtype=dtype, device=device, missing=some_missing(5))
    weights = make_weights(3, 5, device)
    gram = ops.gram(rows, 5, SEGMENTS)
    out = make_out(rows, len(SEGMENTS))
    other = [tensor.clone() for tensor in out]
    arguments = (rows, weights, gram, SEGMENTS, max_norm, 3.0, accumulate)
    scale = ops.merge_(out, *arguments)
    assert scale.dtype == torch.float64
    assert scale.shape == ()
    torch.testing.assert_close(scale, reference.merge_(other, *arguments))
    torch.testing.assert_close(out, other)


class TestClipping:
    def test_norm_is_that_of_the_result(self, device: torch.device) -> None:
        rows = make_rows(4, [(5000,), (33,)], device=device)
        weights = make_weights(1, 4, device)
        out = make_out(rows, 2)
        scale = ops.merge_(out, rows, weights, ops.gram(rows, 4), max_norm=0.25)
        norm = torch.cat([tensor.double() for tensor in out]).norm()
        assert norm.item() == pytest.approx(0.25, rel=1e-6)
        assert 0 < scale < 1

    def test_is_over_all_segments(self) -> None:
        rows: list[Tensor | None] = [torch.full((4,), 3.0), torch.full((4,), 4.0)]
        out = make_out(rows, 2)
        ones = torch.ones(2, 1, dtype=torch.float64)
        scale = ops.merge_(out, rows, ones, ops.gram(rows, 1, [0, 1]), [0, 1], max_norm=5.0)
        assert scale == 0.5

    def test_a_task_of_weight_0_has_no_part_in_the_norm(self) -> None:
        rows: list[Tensor | None] = [torch.ones(4), torch.full((4,), math.nan)]
        out = make_out(rows, 1)
        weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        assert ops.merge_(out, rows, weights, ops.gram(rows, 2), max_norm=1.0) == 0.5
        assert (out[0] == 0.5).all()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_broken_norm_breaks_everything(self, value: float, device: torch.device) -> None:
        rows = make_rows(2, [(40,), (3,)], device=device)
        assert rows[2] is not None
        rows[2][7] = value
        out = make_out(rows, 2)
        weights = torch.ones(1, 2, dtype=torch.float64, device=device)
        scale = ops.merge_(out, rows, weights, ops.gram(rows, 2), max_norm=1.0)
        assert scale.isnan()
        assert all(tensor.isnan().all() for tensor in out)

    def test_a_norm_of_0_is_not_divided_by(self) -> None:
        rows: list[Tensor | None] = [torch.ones(4), -torch.ones(4)]
        out = make_out(rows, 1)
        ones = torch.ones(1, 2, dtype=torch.float64)
        assert ops.merge_(out, rows, ones, ops.gram(rows, 2), max_norm=1.0) == 1
        assert (out[0] == 0).all()


class TestNotRead:
    def test_a_task_of_weight_0(self, dtype: torch.dtype, device: torch.device) -> None:
        rows = make_rows(3, [(4133,), (5,)], dtype, device)
        clean = [rows[place] for place in (0, 1, 4, 5)]
        for place in (2, 3):
            rows[place] = torch.full_like(rows[place], math.inf)  # type: ignore[arg-type]
        out, expected = make_out(rows, 2), make_out(rows, 2)
        ops.merge_(out, rows, torch.tensor([[0.5, 0.0, -2.0]], dtype=torch.float64, device=device))
        ops.merge_(expected, clean, torch.tensor([[0.5, -2.0]], dtype=torch.float64, device=device))
        assert all(torch.equal(*pair) for pair in zip(out, expected, strict=True))

    def test_what_is_overwritten(self, device: torch.device) -> None:
        rows = make_rows(2, [(4133,)], device=device)
        out = [torch.full((4133,), math.nan, device=device)]
        ops.merge_(out, rows, torch.ones(1, 2, dtype=torch.float64, device=device))
        assert out[0].isfinite().all()

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_no_task_takes_part(self, accumulate: bool, device: torch.device) -> None:
        rows = [*make_rows(1, [(4133,), (5,)], device=device), None, None]
        out = make_out(rows, 2)
        before = [tensor.clone() for tensor in out]
        weights = torch.tensor([[0.0, 1.0]], dtype=torch.float64, device=device)
        ops.merge_(out, rows, weights, accumulate=accumulate)
        for tensor, old in zip(out, before, strict=True):
            assert torch.equal(tensor, old if accumulate else torch.zeros_like(old))


class TestLayouts:
    def expect(self, out: Tensor, rows: list[Tensor], accumulate: bool = False) -> None:
        weights = torch.linspace(-1, 2, len(rows), dtype=torch.float64).unsqueeze(0)
        plain = [row.contiguous().clone() for row in rows]
        into = [out.contiguous().clone()] if accumulate else None
        expected, sizes = exact(list(plain), weights, [], into=into)
        ops.merge_([out], rows, weights, accumulate=accumulate)
        assert_rounded([out], expected, sizes)

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_strided_output(self, accumulate: bool, dtype: torch.dtype) -> None:
        rows = [row for row in make_rows(3, [(50, 41)], dtype) if row is not None]
        out = strided(torch.randn(50, 41).to(dtype))
        beside = out.as_strided(out.shape, out.stride(), 1)
        self.expect(out, rows, accumulate)
        self.expect(out, [strided(row) for row in rows], accumulate)
        assert beside.isnan().all()  # the gaps are left alone

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_channels_last(self, accumulate: bool) -> None:
        rows = [row for row in make_rows(3, [(4, 6, 5, 7)]) if row is not None]
        last = [row.to(memory_format=torch.channels_last) for row in rows]
        for out in (torch.randn(4, 6, 5, 7), torch.randn_like(last[0])):
            strides = out.stride()
            self.expect(out, last, accumulate)
            self.expect(out, rows, accumulate)
            self.expect(out, [last[0], rows[1], last[2]], accumulate)
            assert out.stride() == strides

    def test_expanded_gradients(self) -> None:
        rows = [torch.tensor(2.0).expand(30, 5), torch.randn(5).expand(30, 5), torch.randn(30, 5)]
        self.expect(torch.empty(30, 5), rows)

    def test_unaligned(self, dtype: torch.dtype) -> None:
        for offset in (1, 3, 15):
            flat = torch.randn(4, 10_000 + offset).to(dtype)
            self.expect(flat[3, offset:], [flat[t, offset:] for t in range(3)])

    def test_the_output_is_one_of_the_gradients(self, dtype: torch.dtype) -> None:
        rows = [row for row in make_rows(3, [(5000,)], dtype) if row is not None]
        self.expect(rows[1], rows)
        self.expect(rows[1], rows, accumulate=True)

    def test_outputs_too_long_for_the_caches(self) -> None:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(3, 2_500_019, generator=generator)
        flat = torch.empty(2_500_020)
        out = [flat[1:1_000_000], flat[1_000_000:]]
        rows = [part for row in matrix for part in (row[:999_999], row[999_999:])]
        weights = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
        ops.merge_(out, list(rows), weights)
        torch.testing.assert_close(flat[1:], (weights[0] @ matrix.double()).float())


class TestSixteenBits:
    """Conversions by hand: against torch's, on every number there is."""

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_reading_and_writing_every_number(self, kind: torch.dtype) -> None:
        every = torch.arange(-(2**15), 2**15).short().view(kind)
        out = [torch.empty_like(every)]
        ops.merge_(out, [every], torch.ones(1, 1, dtype=torch.float64))
        number = ~every.isnan()
        assert torch.equal(out[0].isnan(), every.isnan())
        assert torch.equal(out[0][number], every[number])

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("weight", [1.0, 1 + 2.0**-10, 0.3, 2.0**-7, 2.0**7, -1.7e-4])
    def test_rounding(self, kind: torch.dtype, weight: float) -> None:
        every = torch.arange(-(2**15), 2**15).short().view(kind)
        out = [torch.empty_like(every)]
        ops.merge_(out, [every], torch.tensor([[weight]], dtype=torch.float64))
        expected = (every.float() * torch.tensor(weight).float()).to(kind)
        torch.testing.assert_close(out[0], expected, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
    def test_scalar_code_at_the_ends_does_the_same(self, kind: torch.dtype) -> None:
        every = torch.arange(-(2**15), 2**15).short().view(kind)
        weights = torch.tensor([[0.3]], dtype=torch.float64)
        whole, parts = torch.empty_like(every), torch.empty_like(every)
        ops.merge_([whole], [every], weights)
        pieces = list(every.split(13))
        ops.merge_(list(parts.split(13)), pieces, weights)
        torch.testing.assert_close(parts, whole, rtol=0, atol=0, equal_nan=True)


def test_the_bits_do_not_depend_on_the_threads(dtype: torch.dtype) -> None:
    shapes = [(200_000,), (7,), (90_001,)]
    rows = make_rows(5, shapes, dtype, missing=[(2, 0)])
    gram = ops.gram(rows, 5)
    weights = make_weights(1, 5)

    def run() -> list[Tensor]:
        out = make_out(rows, 3)
        return [ops.merge_(out, rows, weights, gram, max_norm=1.0), *out]

    first, *others = with_threads(run)
    for other in others:
        assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


def available_memory() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


@pytest.mark.skipif(available_memory() < 7 << 30, reason="writes an output of 4 GB")
def test_more_elements_than_32_bits_can_count() -> None:
    # The gradients' pages that nobody wrote to take no memory; the output's do.
    length = 2**31 + 70_001
    rows = [
        torch.from_numpy(np.zeros(length, dtype=np.uint16)).view(torch.bfloat16) for _ in range(2)
    ]
    places = [0, 2**31 - 1, 2**31, 2**31 + 64, length - 1]
    for place in places:
        rows[0][place] = 1.0
    rows[1][2**31] = 16.0
    out = torch.empty(length, dtype=torch.bfloat16)
    ops.merge_([out], rows, torch.tensor([[2.0, 0.5]], dtype=torch.float64))
    assert out[places].tolist() == [2.0, 2.0, 10.0, 2.0, 2.0]
    square = ops.merge_sign_agreement_([out], rows, tau=0.5, mean=False)
    assert out[places].tolist() == [1.0, 1.0, 17.0, 1.0, 1.0]
    assert out.view(torch.int16).count_nonzero() == len(places)
    assert square == 4 + 17**2


class TestErrors:
    def merge(self, out: list[Tensor], weights: Tensor, *rest: object) -> None:
        rows = [torch.ones(2), torch.ones(2)]
        torch.ops.mtl_ops.merge_(out, rows, weights, *(rest or (None, [], None, None, False)))

    def test_number_of_outputs(self) -> None:
        with pytest.raises(RuntimeError, match=r"out should hold 1 tensors. Found 2"):
            self.merge([torch.ones(2)] * 2, torch.ones(1, 2, dtype=torch.float64))

    def test_shape_and_dtype_of_the_output(self) -> None:
        weights = torch.ones(1, 2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="one shape: task 0 has another than the output"):
            self.merge([torch.ones(3)], weights)
        with pytest.raises(RuntimeError, match="one dtype: task 0 has another than the output"):
            self.merge([torch.ones(2).double()], weights)

    @pytest.mark.parametrize(
        "weights",
        [
            torch.ones(1, 2),
            torch.ones(2, dtype=torch.float64),
            torch.ones(2, 2, dtype=torch.float64)[:, :1].T,
        ],
        ids=["float32", "one dimension", "strided"],
    )
    def test_weights(self, weights: Tensor) -> None:
        with pytest.raises(
            RuntimeError, match="weights should be a contiguous float64 tensor of 2"
        ):
            self.merge([torch.ones(2)], weights)

    def test_segments_without_weights(self) -> None:
        weights = torch.ones(1, 2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=r"a row for each of the 2 segments. Found 1"):
            self.merge([torch.ones(2)], weights, None, [1], None, None, False)

    def test_max_norm_without_a_fitting_gram_matrix(self) -> None:
        weights = torch.ones(1, 2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="max_norm needs the Gram matrix"):
            self.merge([torch.ones(2)], weights, None, [], 1.0, None, False)
        gram = torch.ones(1, 3, 3, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=r"gram should have shape \(1, 2, 2\)"):
            self.merge([torch.ones(2)], weights, gram, [], 1.0, None, False)

"""The methods that look at single coordinates, on the GPU's kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from surrounded import Surrounded, dtypes_of
from torch import Tensor

from mtl_ops import reference

SIZES = (1100, 3, 17, 0, 530)

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}

#: An operator, and its arguments after those that all have, for T tasks.
METHODS: list[tuple[str, Any]] = [
    ("merge_graddrop_", lambda tasks, _: ([0.0] * tasks, 5, 7, None, [])),
    ("merge_graddrop_", lambda tasks, _: ([0.3] * tasks, -5, 1 << 40, None, [])),
    ("merge_graddrop_", lambda tasks, uniforms: ([0.0] * tasks, 0, 0, uniforms, [])),
    ("merge_graddrop_", lambda tasks, uniforms: ([0.3] * tasks, 0, 0, uniforms.float(), [])),
    ("merge_trimmed_mean_", lambda *_: (0,)),
    ("merge_trimmed_mean_", lambda *_: (2,)),
    ("merge_median_", lambda *_: ()),
    ("merge_sign_agreement_", lambda *_: (1.0, True)),
    ("merge_sign_agreement_", lambda *_: (0.5, False)),
]


@pytest.mark.parametrize(("name", "arguments"), METHODS)
@pytest.mark.parametrize(
    ("tasks", "dtype"), dtypes_of((1, 2, 3, 5, 8, 9, 17, 33, 64), others=(3, 12))
)
def test_is_the_definition(
    name: str, arguments: Any, tasks: int, dtype: torch.dtype, kernels
) -> None:
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(sum(SIZES), generator=generator, dtype=torch.float64)
    given = arguments(tasks, uniforms.to(kernels.device))
    scale = torch.rand(3, tasks, generator=generator, dtype=torch.float64).to(kernels.device)
    scale[:, 1::3] = 0.0
    for offset, missing, scales, segments, clip_value, accumulate in (
        (0, 0.0, None, [], None, False),
        (3, 0.3, scale, [0, 2, 1, 0, 0], None, True),
        (None, 0.3, None, [], 0.4, False),
    ):
        memory = Surrounded(kernels.device, fill=7.0)
        rows = memory.rows(tasks, SIZES, dtype, offset, missing)
        if rows[0] is not None:
            rows[0][5] = float("nan")
        out = memory.outs(SIZES, dtype, offset or 0)
        expected = [tensor.clone() for tensor in out]
        rest = (scales, segments, clip_value, accumulate, *given)
        square = getattr(reference, name)(expected, rows, *rest)
        found = getattr(kernels.ops, name)(out, rows, *rest)
        near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype], "equal_nan": True}
        torch.testing.assert_close(out, expected, **near)
        torch.testing.assert_close(found, square, **near)
        memory.assert_untouched()


def test_draws_the_numbers_of_the_cpu(kernels) -> None:
    """Where one task pulls up and another one down, the sign of the result is the number drawn."""
    up = torch.rand(5000, generator=torch.Generator().manual_seed(2))
    rows = [up.to(kernels.device), (up - 1.0).to(kernels.device)]
    there, here = torch.empty(5000, device=kernels.device), torch.empty(5000)
    for first in ([], [1], [63], [2**31 - 70], [2**32 - 70], [2**40 + 37]):
        rest = (None, [], None, False, [0.0, 0.0], 12345678901234, 77, None, first)
        kernels.ops.merge_graddrop_([there], rows, *rest)
        torch.ops.mtl_ops.merge_graddrop_([here], [row.cpu() for row in rows], *rest)
        assert torch.equal(there.cpu(), here)


def test_a_counter_is_added_to_the_offset(kernels) -> None:
    """Where it lies: whatever it holds when the kernel runs."""
    up = torch.rand(700, generator=torch.Generator().manual_seed(2))
    rows = [up.to(kernels.device), (up - 1.0).to(kernels.device)]
    counter = torch.zeros((), dtype=torch.int64, device=kernels.device)
    for offset, count in ((0, 5), (7, 0), (3, -3), (2**63 - 1, 9), (1, 2**40)):
        counter.fill_(count)
        sums = (offset + count + 2**63) % 2**64 - 2**63
        out, other, defined = (torch.empty(700, device=kernels.device) for _ in range(3))
        rest = (None, [], None, False, [0.0, 0.0], 12345678901234)
        kernels.ops.merge_graddrop_([out], rows, *rest, offset, None, [], counter)
        kernels.ops.merge_graddrop_([other], rows, *rest, sums, None, [])
        assert torch.equal(out, other)
        reference.merge_graddrop_([defined], rows, *rest, offset, None, [], counter)
        assert torch.equal(out, defined)


def test_a_counter_is_one_int64_number(kernels) -> None:
    rows, out = [torch.ones(3, device=kernels.device)], torch.ones(3, device=kernels.device)
    for wrong in (torch.zeros(2, dtype=torch.int64), torch.zeros(())):
        rest = (None, [], None, False, [0.0], 1, 0, None, [], wrong.to(kernels.device))
        with pytest.raises(RuntimeError, match="counter should hold one int64 number"):
            kernels.ops.merge_graddrop_([out], rows, *rest)


@pytest.mark.parametrize("given", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coordinates_by_their_numbers(
    given: torch.dtype | None, dtype: torch.dtype, kernels
) -> None:
    """What a coordinate gets among all, it gets in any part that is told its number."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randn(5300, generator=generator).to(kernels.device, dtype) for _ in range(3)]
    uniforms = None
    if given is not None:
        uniforms = torch.rand(5300, generator=generator, dtype=given).to(kernels.device)
    rest = (None, [], None, False, [0.0, 0.5, 0.1], 5, 7, uniforms)
    whole = torch.empty_like(rows[0])
    kernels.ops.merge_graddrop_([whole], rows, *rest, [])
    sizes = [0, 1, 63, 64, 65] * 13 + [1] * 2 + [5000]
    begins = [(63 + p) % 300 for p in range(len(sizes))]
    memory = Surrounded(kernels.device, fill=7.0)
    for order in (range(len(sizes)), torch.randperm(len(sizes), generator=generator).tolist()):
        parts = [slice(begins[p], begins[p] + sizes[p]) for p in order]
        out = memory.outs([sizes[p] for p in order], dtype, 3)
        columns = [row[part] for row in rows for part in parts]
        kernels.ops.merge_graddrop_(out, columns, *rest, [begins[p] for p in order])
        for one, part in zip(out, parts, strict=True):
            assert torch.equal(one, whole[part])
    memory.assert_untouched()


def test_uniforms_in_float64_do_not_round_to_1(kernels) -> None:
    ones, out = [torch.ones(1, device=kernels.device) for _ in range(2)], torch.empty(1)
    out = out.to(kernels.device)
    uniforms = torch.tensor([1 - 2.0**-40], dtype=torch.float64, device=kernels.device)
    kernels.ops.merge_graddrop_([out], ones, None, [], None, False, [0.0, 0.0], 0, 0, uniforms, [])
    assert out.item() == 2.0


@pytest.mark.parametrize(("name", "arguments"), METHODS[1::3])
def test_same_bits_every_time(name: str, arguments: Any, kernels) -> None:
    memory = Surrounded(kernels.device)
    sizes = [1500, 9, 40, 7] * 8  # several parameters a block
    rows = memory.rows(6, sizes, torch.float32, None, missing=0.3)
    rest = (None, [], None, False, *arguments(6, None))

    def run() -> list[Tensor]:
        out = memory.outs(sizes, torch.float32, 2)
        return [getattr(kernels.ops, name)(out, rows, *rest), *out]

    first, *others = kernels.again(run)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))

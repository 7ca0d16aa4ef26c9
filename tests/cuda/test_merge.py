"""The merged gradient on the GPU's kernels."""

from __future__ import annotations

import pytest
import torch
from surrounded import Surrounded, dtypes_of
from torch import Tensor

from mtl_ops import reference

SIZES = (1500, 3, 17, 0, 1130)

TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


def weights(segments: int, tasks: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(segments, tasks, generator=generator, dtype=torch.float64)
    return drawn.to(device)


def gram(segments: int, tasks: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    factor = torch.randn(segments, tasks, tasks + 2, generator=generator, dtype=torch.float64)
    return (factor @ factor.transpose(1, 2)).to(device)


@pytest.mark.parametrize(("offset", "missing"), [(0, 0.0), (3, 0.3), (None, 0.3)])
@pytest.mark.parametrize(
    ("tasks", "dtype"), dtypes_of((1, 2, 3, 4, 5, 8, 9, 33, 64), others=(2, 4, 9))
)
def test_is_the_definition(
    tasks: int, dtype: torch.dtype, offset: int | None, missing: float, kernels
) -> None:
    memory = Surrounded(kernels.device, fill=7.0)
    rows = memory.rows(tasks, SIZES, dtype, offset, missing)
    out = memory.outs(SIZES, dtype, offset or 0)
    segments = [0, 2, 1, 0, 0]
    w, G = weights(3, tasks, kernels.device), gram(3, tasks, kernels.device)
    for max_norm, clip_value, accumulate in ((None, None, False), (0.3, 0.4, True)):
        expected = [tensor.clone() for tensor in out]
        arguments = (w, G, segments, max_norm, clip_value, accumulate)
        scale = reference.merge_(expected, rows, *arguments)
        found = kernels.ops.merge_(out, rows, *arguments)
        torch.testing.assert_close(found, scale, rtol=1e-12, atol=0.0)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
    memory.assert_untouched()


@pytest.mark.parametrize("tasks", [2, 7, 40])
def test_a_task_of_weight_zero_is_not_read(tasks: int, kernels) -> None:
    memory = Surrounded(kernels.device)
    rows = memory.rows(tasks, [1500, 9], torch.float32)
    w = weights(1, tasks, kernels.device)
    w[:, ::2] = 0.0
    for row in rows[0:2]:
        row.fill_(float("nan"))
    G = gram(1, tasks, kernels.device)
    G[0, 0] = G[0, :, 0] = float("inf")
    out = memory.outs([1500, 9], torch.float32)
    found = kernels.ops.merge_(out, rows, w, G, [], 0.1, None, False)
    assert found.isfinite()
    assert all(tensor.isfinite().all() for tensor in out)


def test_a_norm_that_is_not_finite_leaves_no_gradient_that_looks_sound(kernels) -> None:
    memory = Surrounded(kernels.device)
    rows, out = memory.rows(2, [40], torch.float32), memory.outs([40], torch.float32)
    G = torch.full((1, 2, 2), float("inf"), dtype=torch.float64, device=kernels.device)
    w = torch.ones(1, 2, dtype=torch.float64, device=kernels.device)
    assert kernels.ops.merge_(out, rows, w, G, [], 1.0, None, False).isnan()
    assert out[0].isnan().all()


def test_same_bits_every_time(kernels) -> None:
    memory = Surrounded(kernels.device)
    sizes = [1500, 9, 40, 7] * 8  # several parameters a block
    rows = memory.rows(5, sizes, torch.float32, None, missing=0.3)
    w, G = weights(1, 5, kernels.device), gram(1, 5, kernels.device)

    def run() -> list[Tensor]:
        out = memory.outs(sizes, torch.float32, 2)
        return [kernels.ops.merge_(out, rows, w, G, [], 0.1, None, False), *out]

    first, *others = kernels.again(run)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_thousands_of_tensors_and_segments(kernels) -> None:
    count = 60 if kernels.name == "emulated" else 5000
    memory = Surrounded(kernels.device)
    sizes = [p % 29 for p in range(count)]
    rows, out = memory.rows(3, sizes, torch.float32), memory.outs(sizes, torch.float32)
    expected = [tensor.clone() for tensor in out]
    w, G = weights(count, 3, kernels.device), gram(count, 3, kernels.device)
    segments = list(range(count))
    reference.merge_(expected, rows, w, G, segments, 1.0, None, False)
    kernels.ops.merge_(out, rows, w, G, segments, 1.0, None, False)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_an_output_that_is_not_dense(kernels) -> None:
    memory = Surrounded(kernels.device)
    rows = [row.view(5, 8) for row in memory.rows(2, [40], torch.float32)]
    wide = torch.zeros(5, 16, device=kernels.device)
    out = wide[:, ::2]
    w = weights(1, 2, kernels.device)
    kernels.ops.merge_([out], rows, w, None, [], None, None, False)
    expected = w[0, 0] * rows[0] + w[0, 1] * rows[1]
    torch.testing.assert_close(out, expected.float(), rtol=1e-6, atol=1e-6)
    assert (wide[:, 1::2] == 0.0).all()

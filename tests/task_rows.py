"""Lists of task gradients for the tests of the operators, and how near two results should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: Longer than a block of any kernel and not a multiple of one, small ones, a scalar, an empty one.
SHAPES: tuple[tuple[int, ...], ...] = ((4133,), (3, 7), (), (0,), (20, 33), (64,), (257,))

#: On both sides of every width that the kernels treat by itself.
TASKS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 64)

#: Relative error of one rounding.
EPSILON = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}


def make_rows(
    tasks: int,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype | Sequence[torch.dtype] = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    missing: Sequence[tuple[int, int]] = (),
) -> list[Tensor | None]:
    """``T × P`` normal gradients; None for each (task, parameter) of ``missing``."""
    generator = torch.Generator().manual_seed(seed)
    dtypes = [dtype] * len(shapes) if isinstance(dtype, torch.dtype) else list(dtype)
    rows: list[Tensor | None] = [
        torch.randn(shape, generator=generator).to(device, kind)
        for _ in range(tasks)
        for shape, kind in zip(shapes, dtypes, strict=True)
    ]
    for task, param in missing:
        rows[task * len(shapes) + param] = None
    return rows


def make_out(rows: Sequence[Tensor | None], count: int, seed: int = 9) -> list[Tensor]:
    """One tensor like the gradients of each parameter, filled with normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    like = [next(row for row in rows[p::count] if row is not None) for p in range(count)]
    return [torch.randn(row.shape, generator=generator).to(row) for row in like]


def some_missing(tasks: int) -> list[tuple[int, int]]:
    """Gradients to leave out, so that every parameter keeps at least one task."""
    return [(0, 1), (tasks - 1, 4), (0, 0)] if tasks > 1 else []


def make_weights(segments: int, tasks: int, device: torch.device | str = "cpu") -> Tensor:
    """Positive and negative ``(S, T)`` weights, some of them 0."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(segments, tasks, generator=generator, dtype=torch.float64)
    weights[-1, tasks // 2] = 0.0
    return weights.to(device)


def assert_same_gram(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Each entry to ``tolerance`` times the product of the two norms."""
    norms = expected.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    bound = tolerance * norms.unsqueeze(1) * norms.unsqueeze(2)
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= bound).all()
    assert torch.equal(found, found.transpose(1, 2))


def assert_rounded(
    found: Sequence[Tensor], expected: Sequence[Tensor], size: Sequence[Tensor]
) -> None:
    """Each element is right up to rounding.

    Args:
        found: The kernel's results.
        expected: The same in float64.
        size: The sum of the magnitudes of the terms of each element: what rounding errors of the
            sum are proportional to.
    """
    for one, other, scale in zip(found, expected, size, strict=True):
        assert one.shape == other.shape
        rounding = EPSILON[one.dtype] * other.abs() + 16 * EPSILON[torch.float32] * scale
        if one.dtype == torch.float64:
            rounding = 64 * EPSILON[torch.float64] * scale
        smallest = torch.finfo(one.dtype).smallest_normal
        assert ((one.double() - other).abs() <= 1.01 * rounding + smallest).all()


def with_threads(run: Callable[[], Sequence[Tensor]]) -> list[list[Tensor]]:
    """What ``run`` gives with one thread, with two, with three and once more with three."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            results.append([tensor.clone() for tensor in run()])
        return results
    finally:
        torch.set_num_threads(before)


def strided(tensor: Tensor) -> Tensor:
    """The same values, neither dense nor contiguous."""
    wide = torch.full((*tensor.shape, 2), float("nan"), dtype=tensor.dtype, device=tensor.device)
    wide[..., 0] = tensor
    return wide[..., 0]

"""Every kernel a few times, on as few elements as take a block through several tiles: for compute-sanitizer.

``make cuda-memcheck`` and its sisters run this file alone, with one multiprocessor to plan for. Only our
kernels are looked at, so whatever they read is copied from the host: what another kernel had written
would not be known to be initialised.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import make
from samples import SAMPLES
from surrounded import Surrounded
from torch import Tensor

import mtl_ops
from mtl_ops import reference

NO_KERNELS = not torch.cuda.is_available() or mtl_ops.build_info().backends["cuda"] != "native"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(NO_KERNELS, reason="needs a CUDA device and a build with CUDA kernels"),
]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 3e-3,
}
CUDA = torch.device("cuda")
KERNELS = torch.ops.mtl_ops


def sizes_for(tasks: int, dtype: torch.dtype) -> list[int]:
    """At least three tiles for each of two blocks, of the kernel with the widest; and odd ones."""
    per_block = 3 * 8 * 256 * 16 // dtype.itemsize // min(tasks, 8)
    return [2 * per_block + 5, 3, 0, 130]


def on(args: Any) -> Any:
    """Copies from the host."""
    if isinstance(args, Tensor):
        return args.to(CUDA)
    return [on(arg) for arg in args] if isinstance(args, (list, tuple)) else args


def here(args: Any) -> Any:
    """Copies to the host."""
    if isinstance(args, Tensor):
        return args.cpu()
    return [here(arg) for arg in args] if isinstance(args, (list, tuple)) else args


def copied(args: Any) -> Any:
    """Tensors of their own: some are written to."""
    if isinstance(args, Tensor):
        return args.clone()
    return [copied(arg) for arg in args] if isinstance(args, (list, tuple)) else args


def same(found: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(
        here(found), here(expected), rtol=tolerance, atol=tolerance, equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", [2, 4, 7, 12, 40])
def test_gram(tasks: int, dtype: torch.dtype) -> None:
    """As it is, clamped, and out of the range of float32."""
    for factor, offset, clip_value in ((1.0, 0, None), (1.0, 3, 0.5), (1e25, None, None)):
        if factor != 1.0 and dtype == torch.float16:
            continue
        rows = Surrounded(CUDA).rows(tasks, sizes_for(tasks, dtype), dtype, offset, missing=0.2)
        if factor != 1.0:
            rows = on([None if row is None else row * factor for row in here(rows)])
        segments = [0, 1, 0, 0]
        expected = reference.gram(here(rows), tasks, segments, clip_value)
        found = KERNELS.gram(rows, tasks, segments, clip_value).cpu()
        largest = expected.abs().max()
        same(found / largest, expected / largest, 1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", [2, 4, 7, 12])
def test_merge(tasks: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, tasks, generator=generator, dtype=torch.float64)
    gram = torch.stack([make("random", tasks, seed).gram[0] for seed in (0, 1)])
    for offset, max_norm, clip_value, accumulate in (
        (0, None, None, False),
        (0, 0.3, None, True),
        (3, 0.3, 0.4, True),
        (None, None, 0.4, False),
    ):
        memory = Surrounded(CUDA)
        sizes = sizes_for(tasks, dtype)
        rows = memory.rows(tasks, sizes, dtype, offset, missing=0.2)
        there = memory.outs(sizes, dtype, offset or 0)
        expected = [out.clone() for out in here(there)]
        rest = ([0, 1, 0, 0], max_norm, clip_value, accumulate)
        scale = reference.merge_(expected, here(rows), weights, gram, *rest)
        found = KERNELS.merge_(there, rows, on(weights), on(gram), *rest)
        same(found, scale, 1e-12)
        same(there, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tasks", [3, 8, 12, 20, 40])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("merge_graddrop_", (5, 7, None, [])),
        ("merge_median_", ()),
        ("merge_trimmed_mean_", (1,)),
        ("merge_sign_agreement_", (0.5, True)),
    ],
)
def test_coordinates(name: str, given: tuple[Any, ...], tasks: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(2, tasks, generator=generator, dtype=torch.float64)
    sizes = [3 * 4 * 2048 + 5, 3, 0, 130]  # four blocks at most, and no tile is wider
    for offset, scales, clip_value, accumulate in ((0, None, None, False), (3, scale, 0.4, True)):
        memory = Surrounded(CUDA)
        rows = memory.rows(tasks, sizes, dtype, offset, missing=0.2)
        there = memory.outs(sizes, dtype, offset)
        expected = [out.clone() for out in here(there)]
        leak = ([0.25] * tasks,) if name == "merge_graddrop_" else ()
        segments = [0, 1, 0, 0] if scales is not None else []
        rest = (segments, clip_value, accumulate, *leak, *given)
        square = getattr(reference, name)(expected, here(rows), scales, *rest)
        found = getattr(KERNELS, name)(there, rows, on(scales), *rest)
        same(there, expected, TOLERANCE[dtype])
        same(found.cpu() / square, torch.ones(()).double(), TOLERANCE[dtype])


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_operator(name: str) -> None:
    """Also with all the arguments that the tests above leave out."""
    args = SAMPLES[name](torch.float32)
    expected = getattr(torch.ops.mtl_ops, name)(*SAMPLES[name](torch.float32))
    same(getattr(KERNELS, name)(*on(args)), expected, 1e-5)


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if name.startswith("solve_")))
@pytest.mark.parametrize("tasks", [17, 40])
def test_solvers_of_more_tasks_than_lanes(name: str, tasks: int) -> None:
    def fit(arg: Any) -> Any:
        if not isinstance(arg, Tensor):
            return arg
        if arg.dtype == torch.int64:
            return torch.arange(tasks).flip(0).expand(1, tasks, tasks).contiguous()
        for dim, size in enumerate(arg.shape):
            if size == 3:
                arg = arg.index_select(dim, torch.arange(tasks) % 3)
        return arg[-1:].contiguous() if arg.dim() > 1 and arg.shape[0] == 2 else arg

    args = [fit(arg) for arg in SAMPLES[name](torch.float64)[2:]]
    gram = make("random", tasks, 0).gram
    expected = getattr(torch.ops.mtl_ops, name)(gram, None, *copied(args))
    found = getattr(KERNELS, name)(on(gram), None, *on(args)).cpu()
    size = expected.abs().max().item()
    same(found / size, expected / size, 1e-7)


def test_tables_that_do_not_fit_into_arguments() -> None:
    """In pieces of either size."""
    for count in (60, 600):
        memory = Surrounded(torch.device("cpu"))
        sizes = [1 + p % 23 for p in range(count)]
        rows = memory.rows(8, sizes, torch.float32)
        expected = reference.gram(rows, 8, [], None)
        same(KERNELS.gram(on(rows), 8, [], None), expected, 1e-4)
        numbers = [float(at % 4) for at in range(8 * count)]
        gram = make("random", 8, 0).gram.repeat(count, 1, 1)
        scales = reference.task_scales(gram, numbers, 1.0, True, torch.zeros(8, dtype=torch.int64))
        skipped = torch.zeros(8, dtype=torch.int64)
        same(KERNELS.task_scales(on(gram), numbers, 1.0, True, on(skipped)), scales, 1e-12)

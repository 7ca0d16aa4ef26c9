"""Runs every kernel over the long gradients against its definition; a child process of the tests.

The instruction set is chosen once a process, by the environment variable ``MTL_OPS_SIMD``.
"""

from __future__ import annotations

import sys

import torch
from task_rows import make_out, make_rows, make_weights, some_missing

from mtl_ops import _C, ops, reference

SHAPES = [(1100,), (3, 7), (), (20, 33)]


def main(level: str) -> None:
    """Fails where a kernel and its definition differ."""
    assert _C.simd_level() == level, _C.simd_level()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for tasks in (1, 3, 8, 9, 21):
            check(tasks, dtype)


def check(tasks: int, dtype: torch.dtype) -> None:
    """All operators on one set of gradients."""
    rows = make_rows(tasks, SHAPES, dtype, missing=some_missing(tasks)[:1])
    scale = torch.linspace(0.5, 1.5, tasks, dtype=torch.float64).unsqueeze(0)
    gram = ops.gram(rows, tasks, (), 2.0)
    torch.testing.assert_close(gram, reference.gram(rows, tasks, (), 2.0), rtol=1e-6, atol=1e-4)
    merge = (rows, make_weights(1, tasks), gram, (), 1.0, 2.0)
    before = (rows, scale, (), 2.0)
    leak = [0.25] * tasks
    for accumulate in (False, True):
        for name, arguments in (
            ("merge_", (*merge, accumulate)),
            ("merge_graddrop_", (*before, accumulate, leak, 7, 8, None, [])),
            ("merge_graddrop_", (*before, accumulate, leak, 7, 8, None, [70, 2**32 - 9, 1, 0])),
            ("merge_trimmed_mean_", (*before, accumulate, 1)),
            ("merge_median_", (*before, accumulate)),
            ("merge_sign_agreement_", (*before, accumulate, 0.5, True)),
        ):
            out, expected = make_out(rows, len(SHAPES)), make_out(rows, len(SHAPES))
            getattr(torch.ops.mtl_ops, name)(out, *arguments)
            getattr(reference, name)(expected, *arguments)
            torch.testing.assert_close(out, expected)


if __name__ == "__main__":
    main(sys.argv[1])

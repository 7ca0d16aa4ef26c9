"""Measuring and merging the gradients of more than 64 tasks, whose rows are multiplied in groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from task_rows import (
    assert_same_gram,
    make_out,
    make_rows,
    make_weights,
    some_missing,
    strided,
    with_threads,
)
from torch import Tensor

from mtl_ops import ops, reference

from .test_gram import TOLERANCE

TASKS = (65, 95, 96, 97, 128, 200)
SEGMENTS = [0, 1, 1, 2, 0, 2, 1]


class TestGram:
    @pytest.mark.parametrize("tasks", TASKS)
    @pytest.mark.parametrize("clip_value", [None, 0.7])
    def test_is_the_definition(
        self, tasks: int, clip_value: float | None, dtype: torch.dtype
    ) -> None:
        rows = make_rows(tasks, dtype=dtype, missing=some_missing(tasks))
        found = ops.gram(rows, tasks, SEGMENTS, clip_value)
        expected = reference.gram(rows, tasks, SEGMENTS, clip_value)
        assert_same_gram(found, expected, TOLERANCE[dtype])

    def test_parameters_that_few_and_many_reach(self) -> None:
        """Lanes of 64 rows and of groups take turns in one job."""
        tasks, shapes = 80, [(40,), (33,), (40,), (7,)]
        missing = [(t, p) for p in (0, 2) for t in range(1, tasks, 2)]
        kinds = [torch.float32, torch.float32, torch.float32, torch.float64]
        rows = make_rows(tasks, shapes, kinds, missing=missing)
        assert_same_gram(ops.gram(rows, tasks), reference.gram(rows, tasks, [], None), 1e-6)

    def test_1024_tasks(self) -> None:
        rows = make_rows(1024, [(61,)])
        assert_same_gram(ops.gram(rows, 1024), reference.gram(rows, 1024, [], None), 1e-6)

    def test_strided(self) -> None:
        plain = [row for row in make_rows(70) if row is not None]
        found = ops.gram([strided(row) for row in plain], 70)
        assert_same_gram(found, reference.gram(plain, 70, [], None), 1e-6)

    @pytest.mark.parametrize("length", [1, 31, 33, 127, 129, 1023, 1025, 9000])
    def test_every_element_counts_once(self, length: int, dtype: torch.dtype) -> None:
        ones = torch.ones(length, dtype=dtype)
        assert (ops.gram([ones, -ones, ones] * 23, 69).abs() == length).all()

    @pytest.mark.parametrize("size", [1e-30, 1e25])
    @pytest.mark.parametrize("task", [0, 63, 64, 69])
    def test_squares_beyond_float32(self, size: float, task: int) -> None:
        rows = make_rows(70, [(300,)])
        assert rows[task] is not None
        rows[task] *= size
        assert_same_gram(ops.gram(rows, 70), reference.gram(rows, 70, [], None), 1e-6)

    def test_a_broken_task_is_its_own_affair(self) -> None:
        rows = make_rows(70, [(300,)])
        assert rows[66] is not None
        rows[66][7] = torch.inf
        gram = ops.gram(rows, 70)[0]
        kept = torch.arange(70) != 66
        assert not gram[66].isfinite().any()
        whole = [row for t, row in enumerate(rows) if t != 66]
        assert_same_gram(
            gram[kept][:, kept].unsqueeze(0).contiguous(),
            reference.gram(whole, 69, [], None),
            1e-6,
        )

    def test_other_threads_same_bits(self) -> None:
        rows = make_rows(90, [(30_011,), (17,)])
        first, *others = with_threads(lambda: [ops.gram(rows, 90)])
        assert all(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.parametrize("tasks", TASKS)
def test_task_scales(tasks: int) -> None:
    rows = make_rows(tasks, [(50,), (3,)])
    gram = ops.gram(rows, tasks, [0, 1])
    gram[0, 64, 64] = torch.nan
    weights = make_weights(2, tasks).abs().flatten().tolist()
    ours, theirs = (torch.zeros(tasks, dtype=torch.int64) for _ in range(2))
    found = ops.task_scales(gram, weights, 1.5, True, ours)
    torch.testing.assert_close(found, reference.task_scales(gram, weights, 1.5, True, theirs))
    assert torch.equal(ours, theirs)
    assert ours[64] == 1


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_merge(tasks: int, accumulate: bool, dtype: torch.dtype) -> None:
    rows = make_rows(tasks, dtype=dtype, missing=some_missing(tasks))
    weights = make_weights(3, tasks)
    gram = ops.gram(rows, tasks, SEGMENTS)
    out = make_out(rows, len(SEGMENTS))
    other = [tensor.clone() for tensor in out]
    arguments = (rows, weights, gram, SEGMENTS, 5.0, 3.0, accumulate)
    found, wanted = ops.merge_(out, *arguments), reference.merge_(other, *arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)
    for one, another in zip(out, other, strict=True):
        loose = {} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(one, another, **loose)


COORDINATES: dict[str, tuple[Callable[..., Tensor], Callable[[int], dict[str, Any]]]] = {
    "merge_graddrop_": (
        ops.merge_graddrop_,
        lambda T: {
            "leak": [t / T for t in range(T)],
            "seed": 3,
            "offset": 5,
            "uniforms": None,
            "first": (),
        },
    ),
    "merge_trimmed_mean_": (ops.merge_trimmed_mean_, lambda T: {"trim": T // 4}),
    "merge_median_": (ops.merge_median_, lambda T: {}),
    "merge_sign_agreement_": (ops.merge_sign_agreement_, lambda T: {"tau": 0.1, "mean": True}),
}


@pytest.mark.parametrize("tasks", [65, 128, 200, 1024])
@pytest.mark.parametrize("name", COORDINATES)
def test_coordinates(name: str, tasks: int) -> None:
    shapes, segments = [(300,), (3, 7), (65,)], [0, 1, 1]
    rows = make_rows(tasks, shapes, missing=[(0, 1), (tasks - 1, 0)])
    scale = make_weights(2, tasks)
    out = make_out(rows, 3)
    other = [tensor.clone() for tensor in out]
    call, keywords = COORDINATES[name]
    before = (rows, scale, segments, 2.0, True)
    found = call(out, *before, **keywords(tasks))
    wanted = getattr(reference, name)(other, *before, *keywords(tasks).values())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-4)

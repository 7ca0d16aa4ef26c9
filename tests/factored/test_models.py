"""G and the merged gradient from factors, against those from rows, for models of many kinds."""

from __future__ import annotations

import pytest
import torch
from factor_models import GRAPHS, MODELS, make, rows_of
from torch import Tensor

from mtl_ops import ops
from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.layout import find_layout

#: Kinds that vmap cannot go through, or of which nothing is left to be batched.
ONE_BY_ONE = {"a graph for each task"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [*MODELS, *GRAPHS])
@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:Sparse gradients stay")
def test_equals_rows(name: str, dtype: torch.dtype) -> None:
    case = make(name, dtype)
    factoring = Factoring("always")
    for _ in range(2):  # the second time by a plan that is known
        tasks, rows = rows_of(case)
        factors = factoring.factors(tasks, case.params, retain_graph=False)
        expected = case.factors if case.factors >= 0 else (2 if dtype == torch.float64 else 0)
        assert (0 if factors is None else len(factors.factors)) == expected
        if factors is None:
            return
        count, total = len(tasks.losses), len(case.params)
        layout = find_layout(rows, count)
        assert find_layout(factors.reached, count) == layout
        gram = ops.gram(_kept(rows, layout.kept, total), count, layout.segments)
        limit = 1e-12 if dtype == torch.float64 else 2e-6
        assert _error(factors.gram(layout), gram) < limit
        weights = torch.linspace(-1, 2, layout.total * count, dtype=torch.float64)
        weights = weights.reshape(layout.total, count)
        places = range(total) if layout.kept is None else layout.kept
        ours, theirs = ([torch.zeros_like(case.params[p]) for p in places] for _ in range(2))
        clips = [
            factors.merge_(ours, weights, layout, gram, 0.1, accumulate=True),
            ops.merge_(
                theirs,
                _kept(rows, layout.kept, total),
                weights,
                gram,
                layout.segments,
                0.1,
                accumulate=True,
            ),
        ]
        assert clips[0] == clips[1]
        assert _error(*(torch.cat([t.flatten() for t in out]) for out in (ours, theirs))) < limit


def _kept(
    rows: list[Tensor | None], kept: tuple[int, ...] | None, count: int
) -> list[Tensor | None]:
    if kept is None:
        return rows
    return [rows[start + p] for start in range(0, len(rows), count) for p in kept]


def _error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()

"""Adaptive sharing: the kernel against its definition, step after step."""

from __future__ import annotations

import pytest
import torch
from matrices import cases
from torch import Tensor

from mtl_ops import ops, reference


def unmet(tasks: int) -> Tensor:
    return torch.full((1, tasks, tasks), torch.nan, dtype=torch.float64)


@pytest.mark.parametrize("tasks", [1, 2, 5, 16, 64])
def test_is_the_definition(tasks: int) -> None:
    ours, theirs = unmet(tasks), unmet(tasks)
    for count, case in enumerate(cases(sizes=(tasks,), seeds=2)):
        scale = torch.linspace(0.5, 2.0, tasks, dtype=torch.float64).unsqueeze(0)
        if tasks > 1:
            scale[0, count % tasks] = 0.0  # every task is absent at times
        found = ops.solve_adaptive_sharing(case.gram, scale, cosines=ours, beta=0.8)
        wanted = reference.solve_adaptive_sharing(case.gram, scale, theirs, 0.8)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-300)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert ours.isfinite().any()


def test_what_is_not_finite_changes_nothing() -> None:
    gram = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    gram[0, 1, 1] = torch.inf
    for solve in (ops.solve_adaptive_sharing, reference.solve_adaptive_sharing):
        cosines = unmet(3)
        assert solve(gram, None, cosines=cosines, beta=0.9).isnan().all()
        assert cosines.isnan().all()
        scale = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        assert solve(gram, scale, cosines=cosines, beta=0.9).tolist() == [[1.0, 0.0, 1.0]]
        assert cosines[0, 1].isnan().all()
        assert cosines[0, ::2, ::2].tolist() == [[1.0, 0.0], [0.0, 1.0]]

"""Multi-Krum; the solver is tested in ``tests/solvers/test_krum.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases

import mtl_ops
from mtl_ops.methods import Krum

aggregation = pytest.importorskip("torchjd.aggregation")

FAMILIES = ("random", "shared_direction", "conflict", "nonnegative", "sparse", "graded", "tiny")


@pytest.mark.parametrize(("n_byzantine", "n_selected"), [(0, 1), (1, 1), (1, 3), (3, 2)])
def test_agrees_with_torchjd_on_distances(n_byzantine: int, n_selected: int) -> None:
    # With a single neighbour to look at there are ties, and TorchJD's order of those is topk's.
    peer = aggregation.KrumWeighting(n_byzantine, n_selected)
    method = Krum(n_byzantine=n_byzantine, n_selected=n_selected, squared=False)
    count = 0
    for case in cases(FAMILIES, sizes=(n_byzantine + 4, 8, 16), seeds=10):
        assert torch.equal(method.weights(case.gram[0]), peer(case.gram[0])), str(case)
        count += 1
    assert count >= 200


def test_the_papers_squares_choose_otherwise() -> None:
    differ = [
        not torch.equal(
            Krum(n_byzantine=3).weights(case.gram[0]),
            Krum(n_byzantine=3, squared=False).weights(case.gram[0]),
        )
        for case in cases(["random", "graded"], sizes=(16,), seeds=100)
    ]
    assert 0 < sum(differ) < len(differ) / 2


def test_selected_gradients_are_averaged() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.2, 0.0], [1.1, 0.3], [-9.0, 5.0]])
    merged = mtl_ops.merge(rows, Krum(n_byzantine=1, n_selected=3))
    assert torch.allclose(merged, rows[:3].mean(dim=0))


def test_a_task_that_is_left_out_is_not_counted() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.2, 0.0], [1.1, 0.3], [torch.nan, 5.0]])
    merged = mtl_ops.merge(rows, Krum(n_byzantine=1, n_selected=4), nonfinite="skip_task")
    assert torch.allclose(merged, rows[:3].mean(dim=0))


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({}, TypeError, "n_byzantine"),
        ({"n_byzantine": -1}, ValueError, "`n_byzantine` should be at least 0. Found"),
        ({"n_byzantine": 1.0}, TypeError, "`n_byzantine` should be an integer. Found"),
        ({"n_byzantine": True}, TypeError, "`n_byzantine` should be an integer. Found"),
        ({"n_byzantine": 1, "n_selected": 0}, ValueError, "`n_selected` should be at least 1"),
        ({"n_byzantine": 1, "squared": 2}, TypeError, "`squared` should be a bool. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("krum", **params)


def test_too_few_tasks() -> None:
    with pytest.raises(ValueError, match="`n_byzantine` should be at most the number of tasks"):
        mtl_ops.merge(torch.eye(4), Krum(n_byzantine=2))
    with pytest.raises(ValueError, match="`n_selected` should be at most the number of tasks"):
        mtl_ops.merge(torch.eye(4), Krum(n_byzantine=1, n_selected=5))

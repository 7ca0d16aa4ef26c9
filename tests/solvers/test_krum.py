"""Krum and Multi-Krum."""

from __future__ import annotations

import pytest
import torch
from matrices import Case, cases, make, norms
from torch import Tensor

from mtl_ops import ops, reference


def scores(case: Case, n_byzantine: int, squared: bool) -> Tensor:
    """From the gradients themselves."""
    distances = [
        sorted(
            float((a - b).norm()) ** (2 if squared else 1)
            for j, b in enumerate(case.jacobian)
            if j != i
        )
        for i, a in enumerate(case.jacobian)
    ]
    neighbours = case.tasks - n_byzantine - 2
    return torch.tensor([sum(row[:neighbours]) for row in distances], dtype=torch.float64)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize(("n_byzantine", "n_selected"), [(0, 1), (1, 2), (2, 3), (3, 8)])
def test_selects_those_with_the_least_scores(
    n_byzantine: int, n_selected: int, squared: bool
) -> None:
    for case in cases(sizes=(max(n_byzantine + 3, n_selected), 9), seeds=2):
        wanted = scores(case, n_byzantine, squared)
        # Near-duplicates cancel: a distance is known to ε of the longest squared norm.
        square = 1e-14 * float(norms(case.jacobian).max()) ** 2
        noise = case.tasks * (square if squared else square**0.5)
        for found in (
            ops.solve_krum(
                case.gram, n_byzantine=n_byzantine, n_selected=n_selected, squared=squared
            )[0],
            reference.solve_krum(case.gram, None, n_byzantine, n_selected, squared)[0],
        ):
            selected = found > 0
            assert int(selected.sum()) == n_selected
            assert (found[selected] == 1.0 / n_selected).all()
            if not selected.all():
                assert wanted[selected].max() <= wanted[~selected].min() + noise, str(case)


@pytest.mark.parametrize("squared", [True, False])
def test_kernel_and_definition_select_the_same(squared: bool) -> None:
    for case in cases(["random", "graded", "sparse", "zero_row"], sizes=(3, 9, 40), seeds=3):
        found = ops.solve_krum(case.gram, n_byzantine=0, n_selected=3, squared=squared)
        assert torch.equal(found, reference.solve_krum(case.gram, None, 0, 3, squared)), str(case)


def test_an_outlier_is_never_selected() -> None:
    for case in cases(["random", "shared_direction"], sizes=(6, 12), seeds=5):
        j = case.jacobian.clone()
        j[2] = -1e6
        w = ops.solve_krum((j @ j.T).unsqueeze(0), n_byzantine=1, n_selected=case.tasks - 1)[0]
        assert w[2] == 0
        assert (w > 0).sum() == case.tasks - 1


def test_of_equals_the_first_is_selected() -> None:
    gram = torch.eye(5, dtype=torch.float64).unsqueeze(0)
    assert ops.solve_krum(gram, n_byzantine=1)[0].tolist() == [1, 0, 0, 0, 0]
    two = ops.solve_krum(gram, n_byzantine=1, n_selected=2)
    assert two[0].tolist() == [0.5, 0.5, 0, 0, 0]


def test_a_single_neighbour_ties_with_the_first_of_two() -> None:
    case = make("random", 4, 0)
    w = ops.solve_krum(case.gram, n_byzantine=1)[0]
    nearest = torch.cdist(case.jacobian, case.jacobian).fill_diagonal_(torch.inf).min(dim=1).values
    assert w.argmax() == nearest.argmin()


@pytest.mark.parametrize("present", [1, 2, 3])
def test_with_fewer_tasks_than_the_byzantine_ones_need(present: int) -> None:
    case = make("random", 6, 0)
    scale = torch.zeros(1, 6, dtype=torch.float64)
    scale[0, :present] = 1.0
    w = ops.solve_krum(case.gram, scale, n_byzantine=3, n_selected=2)
    assert torch.equal(w, reference.solve_krum(case.gram, scale, 3, 2, True))
    assert float(w.sum()) == 1.0
    assert (w[0] > 0).sum() == min(present, 2)

"""PCD; the solver is tested in ``tests/solvers/test_pcd.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import FAMILIES, STATIONARY, cases, make
from merged import assert_same
from resuming import assert_forgets, assert_resumes, saved_and_loaded

import mtl_ops
from mtl_ops.methods import PCD

#: Feasible, or infeasible beyond doubt, and of lengths that are alike: TorchJD's tolerance is
#: relative to the longest of the normalised gradients.
SOUND = sorted(
    set(FAMILIES) - STATIONARY - {"near_opposite", "near_duplicates_fine", "hard_conflict"}
)


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.3])
def test_agrees_with_torchjd_over_several_calls(tau: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    count = 0
    for case in cases(SOUND, sizes=(1, 2, 3, 6), seeds=2):
        peer = aggregation.PCDWeighting(tau=tau, beta=0.9, eps=1e-30)
        method = PCD(tau=tau, beta=0.9, eps=1e-30)
        for call in range(3):
            gram = (1.0 + call) * case.gram[0]
            assert_same(case, method.weights(gram), peer(gram), rtol=1e-5, of_terms=1e-7)
            count += 1
    assert count >= 200


class TestMemory:
    def test_training_resumes(self) -> None:
        assert_resumes(lambda: PCD(beta=0.8))

    def test_training_forgets(self) -> None:
        assert_forgets(lambda: PCD(beta=0.8, tau=0.5))

    def test_survives_a_file(self) -> None:
        case, method = make("conflict", 3, 0), PCD(beta=0.5)
        assert method.state_dict() == {"means": None}
        method.weights(case.gram[0])
        other = PCD(beta=0.5)
        other.load_state_dict(saved_and_loaded(method.state_dict()))
        graded = make("graded", 3, 0).gram[0]
        assert torch.equal(other.weights(graded), method.weights(graded))

    def test_reset(self) -> None:
        method = PCD(beta=0.5, tau=0.5)
        gram = make("conflict", 3, 0).gram[0]
        first = method.weights(gram)
        method.weights(make("graded", 3, 1).gram[0])
        assert not torch.equal(method.weights(gram), first)
        method.reset()
        assert torch.equal(method.weights(gram), first)

    def test_of_another_number_of_tasks(self) -> None:
        method = PCD()
        method.weights(torch.eye(3))
        with pytest.raises(ValueError, match=r"`reset\(\)` forgets them"):
            method.weights(torch.eye(4))


def test_a_task_that_is_absent_keeps_its_mean() -> None:
    method = PCD(beta=0.5)
    gram = make("random", 3, 0).gram
    method.solve(gram, None, None)
    assert method.means is not None
    before = method.means.clone()
    method.solve(gram, torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64), None)
    assert torch.equal(method.means[0, :, 2], before[0, :, 2])
    assert not torch.equal(method.means[0, :, 1], before[0, :, 1])


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"tau": 1.5}, ValueError, r"`tau` should be in \[0, 1\]. Found `tau = 1.5`"),
        ({"beta": 1.0}, ValueError, r"`beta` should be in \[0, 1\). Found `beta = 1.0`"),
        ({"eps": -1e-8}, ValueError, "`eps` should not be negative"),
        ({"tau": [0.1]}, TypeError, "`tau` should be a number"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("pcd", **params)


def test_nothing_is_given() -> None:
    with pytest.raises(TypeError, match=r"given nothing but gradients.*Found `orders`"):
        mtl_ops.merge(torch.eye(2), "pcd", orders=torch.eye(2))

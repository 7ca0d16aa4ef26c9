"""GradVac; the solver is tested in ``tests/solvers/test_surgery.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make
from merged import assert_same
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

import mtl_ops
from mtl_ops.methods import GradVac


def orders_of(tasks: int) -> Tensor:
    """The permutations that TorchJD draws, of the others, ``(T, T - 1)``."""
    others = [
        torch.tensor([j for j in range(tasks) if j != i], dtype=torch.int64) for i in range(tasks)
    ]
    return torch.stack([row[torch.randperm(tasks - 1)] for row in others])


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_agrees_with_torchjd_over_several_calls(beta: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    # In the other families a corrected gradient is sometimes rounding and nothing else, whose
    # cosine it takes for one.
    families = (
        "random",
        "nearly_orthogonal",
        "shared_direction",
        "nonnegative",
        "conflict",
        "graded",
        "zero_row",
        "tiny",
    )
    count = 0
    for first in cases(families, sizes=(1, 2, 3, 5, 8), seeds=2):
        peer = aggregation.GradVacWeighting(beta=beta)
        method = GradVac(beta=beta, eps=1e-8, tol=0.0)
        for call in range(4):
            case = make(first.family, first.tasks, first.seed + call)
            torch.manual_seed(call)
            orders = orders_of(case.tasks)
            torch.manual_seed(call)
            wanted = peer(case.gram[0])
            found = method.weights(case.gram[0], orders=orders)
            assert_same(case, found, wanted, rtol=0, of_terms=1e-10)
            count += 1
    assert count >= 200


def test_with_eps_torchjd_does_not_see_the_conflict_of_short_gradients() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    short = 1e-5 * torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5]], dtype=torch.float64)
    peer = aggregation.GradVacWeighting()
    peer(short @ short.T)
    ours = GradVac()
    ours.weights(short @ short.T)
    assert ours.rho is not None
    assert float(ours.rho[0, 0, 1]) == pytest.approx(-0.25)
    assert abs(float(peer._phi_t[0, 1])) < 0.01


class TestMemory:
    def test_survives_a_file(self) -> None:
        gram, method = make("conflict", 4, 0).gram[0], GradVac()
        assert method.state_dict() == {"rho": None}
        method.weights(gram)
        other = GradVac()
        other.load_state_dict(saved_and_loaded(method.state_dict()))
        orders = orders_of(4)
        expected = method.weights(gram, orders=orders)
        assert torch.equal(other.weights(gram, orders=orders), expected)
        assert other.rho is not None
        assert torch.equal(other.rho, method.rho)

    def test_loading_takes_a_copy(self) -> None:
        method, other = GradVac(), GradVac()
        method.weights(make("conflict", 4, 0).gram[0])
        state = method.state_dict()
        before = state["rho"].clone()
        other.load_state_dict(state)
        other.weights(make("conflict", 4, 1).gram[0])
        assert torch.equal(state["rho"], before)

    def test_training_resumes_and_forgets(self) -> None:
        def given(step: int) -> dict[str, Tensor]:
            return {"orders": torch.tensor([[1, 2], [2, 0], [0, 1]])}

        assert_resumes(lambda: GradVac(beta=0.9), given)
        assert_forgets(lambda: GradVac(beta=0.9), given)

    def test_reset(self) -> None:
        gram, orders, method = make("conflict", 4, 0).gram[0], orders_of(4), GradVac()
        first = method.weights(gram, orders=orders)
        assert not torch.equal(method.weights(gram, orders=orders), first)
        method.reset()
        assert torch.equal(method.weights(gram, orders=orders), first)

    def test_of_each_set_of_parameters(self) -> None:
        grams = torch.cat([make("conflict", 3, seed).gram for seed in range(2)])
        method, orders = GradVac(), orders_of(3)
        method.weights(grams, orders=orders)
        assert method.rho is not None
        for s in range(2):
            alone = GradVac()
            alone.weights(grams[s], orders=orders)
            assert alone.rho is not None
            assert torch.equal(method.rho[s], alone.rho[0])

    def test_of_another_number_of_tasks(self) -> None:
        method = GradVac()
        method.weights(torch.eye(3))
        with pytest.raises(ValueError, match=r"`reset\(\)` forgets them"):
            method.weights(torch.eye(4))
        method.reset()
        method.weights(torch.eye(4))

    def test_state_of_another_method(self) -> None:
        with pytest.raises(ValueError, match=r"should hold \['rho'\] for method 'gradvac'"):
            GradVac().load_state_dict({"shares": None})


def test_merges_and_remembers() -> None:
    case, method = make("conflict", 3, 0), GradVac()
    merged, w = mtl_ops.merge(case.jacobian, method, return_weights=True)
    torch.testing.assert_close(merged, case.jacobian.T @ w)
    assert method.rho is not None
    assert bool((method.rho != 0).any())


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"beta": 1.5}, ValueError, r"`beta` should be in \[0, 1\]. Found `beta = 1.5`"),
        ({"beta": -0.1}, ValueError, r"`beta` should be in \[0, 1\]"),
        ({"eps": -1.0}, ValueError, "`eps` should not be negative"),
        ({"tol": float("nan")}, ValueError, "`tol` should be finite"),
        ({"beta": "0.5"}, TypeError, "`beta` should be a number"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("gradvac", **params)

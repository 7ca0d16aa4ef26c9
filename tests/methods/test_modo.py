"""MoDo; the solver is tested in ``tests/solvers/test_simplex.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases, make
from resuming import assert_forgets, assert_resumes, saved_and_loaded

import mtl_ops
from mtl_ops.methods import MoDo

aggregation = pytest.importorskip("torchjd.aggregation")


def test_agrees_with_torchjd_over_several_calls() -> None:
    count = 0
    for case in cases(sizes=(1, 2, 3, 5), seeds=1):
        unit = case.gram[0] / case.gram.abs().max().clamp(min=1e-300)
        peer, method = aggregation.MoDoWeighting(gamma=0.3, rho=0.2), MoDo(gamma=0.3, rho=0.2)
        g = torch.Generator().manual_seed(case.seed)
        for _ in range(3):
            a = unit + 0.1 * torch.randn(unit.shape, generator=g, dtype=torch.float64)
            found = method.weights(case.gram[0], cross_gram=a)
            assert torch.allclose(found, peer(a), rtol=0, atol=1e-13), str(case)
            count += 1
    assert count >= 200


def test_without_a_second_batch_it_takes_the_gram_matrix() -> None:
    gram = make("conflict", 4, 0).gram[0]
    alone, handed = MoDo().weights(gram), MoDo().weights(torch.eye(4), cross_gram=gram)
    assert torch.equal(alone, handed)


def test_many_small_steps_find_the_least_norm() -> None:
    case = make("conflict", 3, 0)
    method = MoDo(gamma=1e-2, rho=0.0)
    for _ in range(3000):
        w = method.weights(case.gram[0])
    least = mtl_ops.merge(case.jacobian, "mgda")
    assert torch.allclose(case.jacobian.T @ w, least, atol=1e-6)


def test_the_answer_is_not_the_memory() -> None:
    method, gram = MoDo(gamma=0.1), make("random", 3, 0).gram[0]
    first = method.weights(gram)
    kept = first.clone()
    method.weights(gram)
    assert torch.equal(first, kept)


def test_state_survives_a_file() -> None:
    gram = make("random", 3, 0).gram[0]
    method, other = MoDo(gamma=0.1), MoDo(gamma=0.1)
    assert method.state_dict() == {"shares": None}
    method.weights(gram)
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    expected = method.weights(gram)
    assert torch.equal(other.weights(gram), expected)
    other.reset()
    assert not torch.equal(other.weights(gram), expected)


def test_training_resumes_and_forgets() -> None:
    assert_resumes(lambda: MoDo(gamma=0.05))
    assert_forgets(lambda: MoDo(gamma=0.05))


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"gamma": 0.0}, ValueError, "`gamma` should be positive. Found"),
        ({"gamma": None}, TypeError, "`gamma` should be a positive number. Found"),
        ({"rho": -0.1}, ValueError, "`rho` should not be negative. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("modo", **params)

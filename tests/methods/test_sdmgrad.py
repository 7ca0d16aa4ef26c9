"""SDMGrad; the solver is tested in ``tests/solvers/test_simplex.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import Case, cases, make
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

import mtl_ops
from mtl_ops.methods import SDMGrad

aggregation = pytest.importorskip("torchjd.aggregation")


def crossed(case: Case, call: int) -> Tensor:
    """``J₁J₂ᵀ`` of two noisy batches, of another size in each call."""
    g = torch.Generator().manual_seed(call)
    noise = 0.5 * case.jacobian.norm(dim=1).mean() / case.jacobian.shape[1] ** 0.5
    first, second = (
        case.jacobian + noise * torch.randn(case.jacobian.shape, generator=g, dtype=torch.float64)
        for _ in range(2)
    )
    return (1.0 + call) * first @ second.T


@pytest.mark.parametrize("with_preference", [False, True])
def test_agrees_with_torchjd_over_several_calls(with_preference: bool) -> None:
    # It adds 1e-8 to the square that A is divided by; here that is 1e-9 of it at most. Its first
    # answers depend on w through twenty steps of size 10, so this is as close as they come.
    count = 0
    families = ("random", "shared_direction", "conflict", "nonnegative", "sparse", "duplicates")
    for case in cases(families, sizes=(1, 2, 3, 5, 8), seeds=3):
        p = None
        if with_preference:
            p = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
            p = p / p.sum()
        params = {"lr": 0.5, "momentum": 0.3, "n_iter": 10}
        peer = aggregation.SDMGradWeighting(**params, lambda_=0.6, pref_vector=p)
        method = SDMGrad(**params, lam=0.6, preference=p)
        for call in range(3):
            a = 1e2 * crossed(case, call)
            if not (a.diagonal() > 0).any():
                continue
            found = method.weights(case.gram[0], cross_gram=a)
            assert torch.allclose(found, peer(a), atol=1e-6), str(case)
            count += 1
    assert count >= 200


def test_torchjd_may_answer_zero_where_nothing_is_positive() -> None:
    a = -torch.tensor([[1.0, 2.0], [0.5, 1e9]], dtype=torch.float64)
    assert float(aggregation.SDMGradWeighting(lambda_=0.0)(a).sum()) < 0.5
    assert SDMGrad(lam=0.0).weights(a).tolist() == [0.5, 0.5]


def test_without_a_second_batch_it_takes_the_gram_matrix() -> None:
    gram = make("conflict", 4, 0).gram[0]
    alone, handed = SDMGrad().weights(gram), SDMGrad().weights(torch.eye(4), cross_gram=gram)
    assert torch.equal(alone, handed)


def test_merges_a_third_batch() -> None:
    case = make("random", 3, 0)
    a = crossed(case, 1)
    merged, w = mtl_ops.merge(case.jacobian, SDMGrad(), cross_gram=a, return_weights=True)
    assert torch.allclose(merged, case.jacobian.T @ w)
    assert torch.equal(w, SDMGrad().weights(case.gram[0], cross_gram=a))


def test_state_survives_a_file() -> None:
    case, method = make("random", 3, 0), SDMGrad(lr=0.1)
    assert method.state_dict() == {"shares": None}
    method.weights(case.gram[0])
    other = SDMGrad(lr=0.1)
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    expected = method.weights(case.gram[0])
    assert torch.equal(other.weights(case.gram[0]), expected)
    other.reset()
    assert not torch.equal(other.weights(case.gram[0]), expected)


def test_loading_makes_a_copy() -> None:
    method, other = SDMGrad(lr=0.1), SDMGrad(lr=0.1)
    gram = make("random", 3, 0).gram[0]
    method.weights(gram)
    other.load_state_dict(method.state_dict())
    kept = method.shares.clone()
    other.weights(gram)
    assert torch.equal(method.shares, kept)


def test_training_resumes_and_forgets() -> None:
    assert_resumes(lambda: SDMGrad(lr=0.01, n_iter=2))
    assert_forgets(lambda: SDMGrad(lr=0.01, n_iter=2))


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"lr": 0.0}, ValueError, "`lr` should be positive. Found"),
        ({"momentum": 1.0}, ValueError, r"`momentum` should be in \[0, 1\). Found"),
        ({"momentum": -0.1}, ValueError, r"`momentum` should be in \[0, 1\). Found"),
        ({"n_iter": 0}, ValueError, "`n_iter` should be at least 1. Found"),
        ({"n_iter": 2.5}, TypeError, "`n_iter` should be an integer. Found"),
        ({"lam": -1.0}, ValueError, "`lam` should not be negative. Found"),
        ({"preference": [float("nan")]}, ValueError, "`preference` should hold one finite number"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("sdmgrad", **params)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"`cross_gram` should have the shape .* \(1, 2, 2\)"):
        SDMGrad().weights(torch.eye(2), cross_gram=torch.eye(3))
    with pytest.raises(TypeError, match=r"`cross_gram` should be a tensor\. Found list"):
        SDMGrad().weights(torch.eye(2), cross_gram=[[1.0]])
    with pytest.raises(TypeError, match=r"should be given `cross_gram`\. Found `draws`"):
        SDMGrad().weights(torch.eye(2), draws=torch.eye(2))
    method = SDMGrad()
    method.weights(torch.eye(2))
    with pytest.raises(
        ValueError, match=r"the same tasks .*`reset\(\)` forgets them.*after \(1, 2\)"
    ):
        method.weights(torch.eye(3))
    with pytest.raises(ValueError, match="`state` should hold"):
        SDMGrad().load_state_dict({"rho": None})

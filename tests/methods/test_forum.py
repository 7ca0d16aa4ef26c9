"""FORUM: the optimality of its dual, and its average."""

from __future__ import annotations

import pytest
import torch
from matrices import Case, cases, gram
from multitask import Net, assert_equal, batch, wrap
from resuming import saved_and_loaded

import mtl_ops
from mtl_ops.methods import FORUM

RHO = 0.1


def residual(case: Case, weights: torch.Tensor, rho: float) -> float:
    """How far from optimal: the slack of every condition, relative to what is compared."""
    jacobian = case.jacobian
    constraint, objectives = jacobian[-1], jacobian[:-1]
    merged = weights @ jacobian
    gamma, nu = weights[:-1], weights[-1]
    lengths = objectives.norm(dim=1)
    size = max(float(lengths.max()), float(constraint.norm()), 1e-300)
    pull = merged / size
    unit = objectives / size
    # Stationary on the simplex: every objective's rate is at least the mean one, and equal where γ > 0.
    rates = unit @ pull
    worst = float((gamma @ rates - rates).clamp(min=0).max())
    # The constraint: its rate is at least ρ|q|², and equal where ν > 0.
    slack = float(pull @ constraint / size - rho * constraint.square().sum() / size**2)
    worst = max(worst, -slack, abs(float(nu) * slack) / max(float(nu), 1.0))
    return max(worst, abs(float(gamma.sum()) - 1), float(-gamma.min()), float(-nu))


@pytest.mark.parametrize("rho", [0.01, 0.1, 1.0])
def test_is_optimal(rho: float) -> None:
    families = ["random", "square", "orthogonal", "conflict", "hard_conflict", "duplicates"]
    families += ["near_opposite", "rank_deficient", "simplex", "ternary", "zero_row", "all_zero"]
    for case in cases(families, sizes=(2, 3, 9), seeds=2):
        weights = FORUM(rho=rho).weights(case.gram[0])
        assert residual(case, weights, rho) < 1e-7, case


def test_without_constraint_it_is_mgda() -> None:
    for case in cases(["random", "conflict", "orthogonal"], sizes=(3, 5)):
        padded = torch.nn.functional.pad(case.gram[0], (0, 1, 0, 1))
        weights = FORUM().weights(padded)
        expected = case.jacobian.T @ mtl_ops.ops.solve_mgda(case.gram)[0]
        assert weights[-1] == 0.0
        torch.testing.assert_close(case.jacobian.T @ weights[:-1], expected, rtol=1e-6, atol=1e-8)


def test_two_losses() -> None:
    """One objective: γ = 1, and ν is what lifts the constraint's rate to ρ|q|²."""
    objective, constraint = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    jacobian = torch.stack([objective, constraint]).double()
    weights = FORUM(rho=0.5).weights(jacobian @ jacobian.T)
    assert weights.tolist() == pytest.approx([1.0, 1.0])
    merged = weights @ jacobian
    assert float(merged @ jacobian[1]) == pytest.approx(0.5 * 2.0)


def test_average() -> None:
    method, exact = FORUM(beta=0.25), FORUM()
    average = None
    for case in cases(["random"], sizes=(4,), seeds=6):
        now = exact.weights(case.gram[0])[:-1]
        average = now if average is None else 0.75 * average + 0.25 * now
        weights = method.weights(case.gram[0])
        torch.testing.assert_close(weights[:-1], average)
        rates = RHO - case.gram[0][:-1, -1] / case.gram[0][-1, -1]
        assert float(weights[-1]) == pytest.approx(max(float(average @ rates), 0.0))


def test_absent_tasks() -> None:
    net = Net()
    optimizer = wrap(net, FORUM(beta=0.5))
    for step, absent in enumerate([None, "a", "c", "b", None]):
        optimizer.zero_grad()
        losses = {**net.losses(batch(step))}
        if absent:
            losses[absent] = None  # type: ignore[assignment]
        optimizer.backward(losses)
        optimizer.step()
        weights = optimizer.report.weights
        assert weights is not None
        if absent:
            assert weights[0, "abc".index(absent)] == 0.0
        assert float(weights[0, :2].sum()) == pytest.approx(1.0)


def test_what_is_not_finite_leaves_the_average_alone() -> None:
    method = FORUM()
    method.weights(gram(torch.eye(3, dtype=torch.float64))[0])
    average = method.average
    assert average is not None
    average = average.clone()
    assert method.weights(torch.full((3, 3), torch.nan)).isnan().all()
    assert_equal([method.average], [average])
    again = FORUM()
    again.load_state_dict(saved_and_loaded(method.state_dict()))
    assert_equal([again.average], [average])
    method.reset()
    assert method.state_dict()["average"] is None


def test_validation() -> None:
    with pytest.raises(ValueError, match="`rho` should be positive"):
        FORUM(rho=0.0)
    with pytest.raises(ValueError, match=r"`beta` should be in \(0, 1\]"):
        FORUM(beta=1.5)
    with pytest.raises(ValueError, match="an objective and a constraint at least"):
        FORUM().weights(torch.eye(1))
    with pytest.raises(TypeError, match="Found `cross_gram`"):
        FORUM().weights(torch.eye(2), cross_gram=torch.eye(2))

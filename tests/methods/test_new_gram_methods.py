"""What ConicGrad, GradOPS, DiBS-MTL, EPO, PMGDA, FERERO, online PCGrad and bounds for MGDA add to their solvers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make
from torch import Tensor

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import (
    EPO,
    FERERO,
    MGDA,
    PMGDA,
    ConFIG,
    ConicGrad,
    DiBSMTL,
    GradOPS,
    NormBalancing,
    OnlinePCGrad,
    Sum,
    UPGrad,
)

PREFERRING = (EPO, PMGDA, FERERO)


def made(cls: type, **params: Any) -> Any:
    return cls(**params)


def test_two_tasks_one_method() -> None:
    """ConFIG, balanced norms, equalised gradients and DCGD's center: ``w_i = n̄ / n_i``."""
    for case in cases(["random", "conflict", "graded"], sizes=(2,), seeds=3):
        n = case.jacobian.norm(dim=1)
        wanted = (n.mean() / n) @ case.jacobian
        kept: dict[str, Any] = {"normalise": "l2", "keep_scale": True}
        for found in (
            mtl_ops.merge(case.jacobian, ConFIG()),
            mtl_ops.merge(case.jacobian, NormBalancing(momentum=0.0)),
            mtl_ops.merge(case.jacobian, "sum", **kept),
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9 * float(n.max()))


def test_dibs_is_a_sum_of_unit_gradients() -> None:
    rows = make("graded", 4, 0).jacobian
    found = mtl_ops.merge(rows, DiBSMTL(step=0.3))
    torch.testing.assert_close(found, 0.3 * mtl_ops.merge(rows, Sum(), normalise="l2"))


def test_methods_without_conflict_are_sums() -> None:
    rows = make("nonnegative", 4, 0).jacobian
    for method in (GradOPS(), OnlinePCGrad()):
        torch.testing.assert_close(mtl_ops.merge(rows, method), rows.sum(dim=0))


class TestLeastWeights:
    def test_a_number_is_for_all(self) -> None:
        rows = make("graded", 4, 0).jacobian
        one = mtl_ops.merge(rows, MGDA(min_weights=0.1))
        each = mtl_ops.merge(rows, MGDA(min_weights=[0.1] * 4))
        assert torch.equal(one, each)
        _, w = mtl_ops.merge(rows, MGDA(min_weights=0.1), return_weights=True)
        assert (w >= 0.1 - 1e-15).all()

    def test_an_absent_task_takes_nothing_along(self) -> None:
        gram = make("random", 3, 0).gram
        part = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        w = MGDA(min_weights=[0.2, 0.5, 0.3]).solve(gram, part, None)[0]
        assert float(w.sum()) == pytest.approx(1.0)
        assert (w[[0, 2]] >= torch.tensor([0.2, 0.3])).all()

    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            (-0.1, ValueError, "`min_weights` should not be negative"),
            ([0.5, -0.1], ValueError, "`min_weights` should hold numbers that are not negative"),
            ([0.7, 0.7], ValueError, "`min_weights` should sum to at most 1"),
            ("all", TypeError, "`min_weights` should be a sequence of numbers"),
            (True, TypeError, "`min_weights` should be a number"),
        ],
    )
    def test_bad_values(self, given: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            MGDA(min_weights=given)

    def test_bad_for_so_many_tasks(self) -> None:
        with pytest.raises(ValueError, match=r"sum to at most 1 .*`T = 3`"):
            MGDA(min_weights=0.4).weights(torch.eye(3))
        with pytest.raises(ValueError, match="one number for each of 3 tasks"):
            MGDA(min_weights=[0.4, 0.1]).weights(torch.eye(3))
        with pytest.raises(ValueError, match="should be None with `solver = 'frank_wolfe'`"):
            MGDA(min_weights=0.1, solver="frank_wolfe")


@pytest.mark.parametrize("cls", [*PREFERRING, UPGrad, ConFIG])
class TestPreference:
    losses = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    r = torch.tensor([2.0, 0.7, 1.5], dtype=torch.float64)

    def test_can_be_handed_in(self, cls: type) -> None:
        gram = make("random", 3, 0).gram[0]
        own = made(cls, preference=self.r).weights(gram, self.losses)
        for given in (self.r, self.r.tolist()):
            handed = made(cls, preference=[1.0, 2.0, 3.0]).weights(
                gram, self.losses, preference=given
            )
            assert torch.equal(handed, own)
        assert not torch.equal(made(cls).weights(gram, self.losses), own)

    def test_through_the_optimizer(self, cls: type) -> None:
        results = []
        for method, given in (
            (made(cls, preference=self.r), {}),
            (made(cls), {"preference": self.r}),
        ):
            theta = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64))
            optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD([theta], lr=0.1), method)
            shifts = torch.eye(4, dtype=torch.float64)[:3]
            optimizer.backward([(theta - s).square().sum() for s in shifts], **given)
            results.append(theta.grad)
        assert torch.equal(*results)

    def test_bad(self, cls: type) -> None:
        gram = torch.eye(3)
        with pytest.raises(ValueError, match=r"`preference` should have shape \(3,\)"):
            made(cls).weights(gram, self.losses, preference=self.r[:2])
        with pytest.raises(ValueError, match="one number for each of 3 tasks"):
            made(cls, preference=[1.0, 2.0]).weights(gram, self.losses)
        with pytest.raises(TypeError, match="should be given `preference`"):
            made(cls).weights(gram, self.losses, wish=self.r)


@pytest.mark.parametrize("cls", PREFERRING)
def test_preferences_need_losses(cls: type) -> None:
    with pytest.raises(ValueError, match="`preference` should hold positive numbers"):
        made(cls, preference=[1.0, 0.0])
    with pytest.raises(TypeError, match="needs the losses"):
        made(cls).weights(torch.eye(2))
    with pytest.raises(ValueError, match="one loss for each of 3 tasks"):
        made(cls).weights(torch.eye(3), torch.ones(2))


def test_preferences_lead_to_where_they_point() -> None:
    """Two bowls: the ratio of the losses at the end is what was asked for."""
    for cls, ratio in ((EPO, 3.0), (PMGDA, 1 / 3), (FERERO, 1 / 3)):
        theta = torch.nn.Parameter(torch.tensor([0.5, 0.7], dtype=torch.float64))
        params = {"h_tol": 1e-3} if cls is PMGDA else {}
        method = made(cls, preference=[1.0, 3.0], **params)
        optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD([theta], lr=0.03), method)
        for _ in range(200):
            optimizer.zero_grad()
            centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
            losses = (theta - centers).square().sum(dim=1)
            optimizer.backward(losses)
            optimizer.step()
        first, second = ((theta - centers).square().sum(dim=1)).tolist()
        assert first / second == pytest.approx(ratio, rel=0.1), cls
        assert abs(theta[1].item()) < 0.05, cls  # on the front


class TestOrder:
    rows = make("conflict", 4, 0).jacobian

    def test_can_be_handed_in(self) -> None:
        order = torch.tensor([3, 1, 0, 2])
        found = mtl_ops.merge(self.rows, "online_pcgrad", order=order)
        wanted = mtl_ops.merge(self.rows[order], OnlinePCGrad(order="cyclic"))
        torch.testing.assert_close(found, wanted)

    def test_is_drawn_from_the_generator(self) -> None:
        def drawn(seed: int) -> Tensor:
            method = OnlinePCGrad()
            method.generator = torch.Generator().manual_seed(seed)
            return method.weights(make("conflict", 8, 0).gram[0])

        assert torch.equal(drawn(0), drawn(0))
        assert len({tuple(drawn(seed).tolist()) for seed in range(5)}) > 1

    def test_bad(self) -> None:
        with pytest.raises(TypeError, match="`order` should be a tensor of integers"):
            mtl_ops.merge(self.rows, "online_pcgrad", order=torch.ones(4))
        with pytest.raises(ValueError, match=r"`order` should have shape \(4,\) or \(1, 4\)"):
            mtl_ops.merge(self.rows, "online_pcgrad", order=torch.arange(3))
        with pytest.raises(ValueError, match="`order` should be one of 'random', 'cyclic'"):
            OnlinePCGrad(order="last")


@pytest.mark.parametrize(
    ("name", "params", "error", "text"),
    [
        ("conicgrad", {"c": 0.0}, ValueError, "`c` should be positive"),
        ("conicgrad", {"c": 1.5}, ValueError, r"`c` should be in \(0, 1\]"),
        ("gradops", {"project": "some"}, ValueError, "`project` should be one of"),
        ("gradops", {"alpha": "a"}, TypeError, "`alpha` should be a number"),
        ("dibs_mtl", {"steps": 0}, ValueError, "`steps` should be at least 1"),
        ("dibs_mtl", {"step": 0.0}, ValueError, "`step` should be positive"),
        ("epo", {"tol": -1.0}, ValueError, "`tol` should not be negative"),
        ("epo", {"relax": 1}, TypeError, "`relax` should be True or False"),
        ("pmgda", {"sigma": 1.5}, ValueError, r"`sigma` should be in \[0, 1\]"),
        ("pmgda", {"h_tol": -1.0}, ValueError, "`h_tol` should not be negative"),
        ("ferero", {"kappa": -1.0}, ValueError, "`kappa` should not be negative"),
        ("go4align", {"groups": 0}, ValueError, "`groups` should be at least 1"),
        ("go4align", {"step_size": -1.0}, ValueError, "`step_size` should not be negative"),
    ],
)
def test_bad_parameters(
    name: str, params: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get(name, **params)


@pytest.mark.parametrize("method", [ConicGrad(), GradOPS(), DiBSMTL()])
def test_nothing_else_can_be_handed_in(method: Any) -> None:
    with pytest.raises(TypeError, match="nothing but gradients and losses"):
        method.weights(torch.eye(2), order=torch.arange(2))


def test_a_thousand_tasks_of_a_linear_program() -> None:
    case = make("shared_direction", ops.MAX_TASKS["cpu"], 0)
    losses = torch.linspace(1.0, 2.0, case.tasks, dtype=torch.float64)
    w = ops.solve_epo(case.gram, losses=losses)[0]
    assert float(w.sum()) == pytest.approx(1.0)
    assert float((case.gram[0] @ w)[-1]) >= 0  # the worst does not lose

"""MetaBalance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make, norms
from multitask import Net, batch, wrap
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from torch import Tensor

import mtl_ops
from mtl_ops.methods import MetaBalance

STRATEGIES = ("both", "reduce", "enlarge")


def by_the_formula(history: list[Tensor], main: int, relax: float, beta: float, how: str) -> Tensor:
    """The weights after some calls with such norms, from m = 0."""
    weights = []
    averages = [0.0] * len(history[0])
    for n in history:
        averages = [beta * m + (1 - beta) * x for m, x in zip(averages, n.tolist(), strict=True)]
    goal = averages[main]
    for i, m in enumerate(averages):
        acts = m > 0 and {"both": True, "reduce": m > goal, "enlarge": m < goal}[how]
        weights.append(relax * goal / m + 1 - relax if acts and i != main else 1.0)
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("relax", "beta"), [(0.7, 0.9), (1.0, 0.0), (0.0, 0.5)])
def test_formula_on_hard_matrices(relax: float, beta: float, strategy: Any) -> None:
    for case in cases(sizes=(1, 2, 5, 64), seeds=1):
        main = case.tasks // 2
        method = MetaBalance(relax=relax, beta=beta, main=main, strategy=strategy)
        history = []
        for factor in (1.0, 0.3, 2.0):
            history.append(factor * norms(case.jacobian))
            w = method.weights(factor**2 * case.gram[0])
            wanted = by_the_formula(history, main, relax, beta, strategy)
            torch.testing.assert_close(w, wanted, rtol=1e-9, atol=0.0, msg=str(case))
            assert w[main] == 1
            assert strategy != "reduce" or (w <= 1 + 1e-12).all()
            assert strategy != "enlarge" or (w >= 1 - 1e-12).all()


def test_all_weighted_norms_are_the_main_task_s() -> None:
    case = make("graded", 5, 0)
    method, n = MetaBalance(relax=1.0, main=3), norms(case.jacobian)
    for _ in range(4):
        w = method.weights(case.gram[0])
        torch.testing.assert_close(w * n, n[3].expand(5))


def test_relax_zero_is_a_sum() -> None:
    rows = make("graded", 4, 0).jacobian
    torch.testing.assert_close(
        mtl_ops.merge(rows, MetaBalance(relax=0.0)), mtl_ops.merge(rows, "sum")
    )


def test_each_set_is_balanced_by_itself() -> None:
    grams = torch.cat([make("graded", 3, seed).gram for seed in range(3)])
    together = MetaBalance()
    alone = [MetaBalance() for _ in grams]
    for _ in range(3):
        found = together.weights(grams)
        wanted = [method.weights(gram) for method, gram in zip(alone, grams, strict=True)]
        torch.testing.assert_close(found, torch.stack(wanted))
    net = Net()
    optimizer = wrap(net, MetaBalance(relax=1.0), granularity="tensor")
    losses = net.losses(batch())
    weight = net.trunk[0].weight
    own = [torch.autograd.grad(x, weight, retain_graph=True)[0] for x in losses.values()]
    wanted_grad = sum(g * (own[0].norm() / g.norm()) for g in own)
    optimizer.backward(losses)
    torch.testing.assert_close(weight.grad, wanted_grad)


class TestDegenerate:
    def test_absent_tasks_keep_their_averages(self) -> None:
        gram = make("graded", 3, 0).gram
        spoilt = gram.clone()
        spoilt[0, 1] = spoilt[0, :, 1] = torch.nan
        part = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
        method, fewer = MetaBalance(), MetaBalance()
        for _ in range(3):
            w = method.solve(spoilt, part, None)
            assert w[0, 1] == 0
            torch.testing.assert_close(w[0, ::2], fewer.weights(gram[0, ::2, ::2]))
        assert method.averages is not None
        assert not method.averages[0, :, 1].any()
        late = method.weights(gram[0])  # constant gradients: a late start makes no difference
        torch.testing.assert_close(late, MetaBalance().weights(gram[0]))

    def test_without_the_main_task_its_last_average_serves(self) -> None:
        gram = make("graded", 3, 0).gram
        method = MetaBalance()
        first = method.weights(gram[0])
        part = torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)
        w = method.solve(gram, part, None)
        assert w[0, 0] == 0
        torch.testing.assert_close(w[0, 1:], first[1:])

    def test_zero_gradients(self) -> None:
        rows = torch.diag(torch.tensor([2.0, 0.0, 1.0]))
        assert MetaBalance().weights(rows @ rows)[1] == 1
        rows = torch.diag(torch.tensor([0.0, 3.0, 1.0]))
        assert MetaBalance().weights(rows @ rows).tolist() == pytest.approx([1, 0.3, 0.3])
        assert MetaBalance().weights(torch.zeros(3, 3)).tolist() == [1, 1, 1]

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_what_is_not_finite_is_nan_and_is_not_remembered(self, value: float) -> None:
        method, gram = MetaBalance(), make("random", 3, 0).gram[0].clone()
        method.weights(gram)
        assert method.averages is not None
        before = method.averages.clone()
        gram[1, 1] = value
        assert method.weights(gram).isnan().all()
        assert torch.equal(method.averages, before)


def test_a_scale_is_a_scaled_gradient() -> None:
    case, scale = make("random", 3, 0), torch.tensor([[2.0, 0.5, 1.0]], dtype=torch.float64)
    one, other = MetaBalance(), MetaBalance()
    for _ in range(3):
        w, v = one.solve(case.gram, scale, None), other.weights(scale.T * case.gram[0] * scale)
    torch.testing.assert_close(w[0], scale[0] * v)


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    grams = [make("graded", 3, seed).gram[0] for seed in range(4)]
    method, other = MetaBalance(), MetaBalance()
    assert method.state_dict() == {"averages": None}
    method.weights(grams[0])
    tensor = method.averages
    method.weights(grams[1])
    assert method.averages is tensor
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    for gram in grams[2:]:
        assert torch.equal(other.weights(gram), method.weights(gram))


def test_training_resumes_and_forgets() -> None:
    assert_resumes(MetaBalance)
    assert_forgets(MetaBalance)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"relax": 1.1}, ValueError, r"`relax` should be in \[0, 1\]"),
        ({"beta": 1.0}, ValueError, r"`beta` should be in \[0, 1\)"),
        ({"main": -1}, ValueError, "`main` should be at least 0"),
        ({"main": "a"}, TypeError, "`main` should be an integer"),
        ({"strategy": "up"}, ValueError, "`strategy` should be one of 'both', 'reduce', 'enlarge'"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("metabalance", **params)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"number of one of 2 tasks\. Found `main = 2`"):
        MetaBalance(main=2).weights(torch.eye(2))
    with pytest.raises(TypeError, match="nothing but gradients and losses"):
        MetaBalance().weights(torch.eye(2), measures=torch.ones(2))
    method = MetaBalance()
    method.weights(torch.eye(2))
    with pytest.raises(ValueError, match="the same tasks"):
        method.weights(torch.eye(3))

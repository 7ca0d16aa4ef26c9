"""Momentum before the merge, against the averages as they are written down, and against conflictfree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, norms
from torch import Tensor

import mtl_ops
from mtl_ops.methods import Method, Momentum


def rows_of(step: int, tasks: int = 3, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(tasks, size, generator=generator, dtype=torch.float64)


class Naive:
    """The sums of Adam, corrected when they are read; all in float64."""

    def __init__(self, method: str, beta: float, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.method, self.beta, self.beta2, self.eps = mtl_ops.methods.get(method), beta, beta2, eps
        self.sums: dict[int, Tensor] = {}
        self.times: dict[int, int] = {}
        self.first: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.calls = 0

    def merged(self, rows: Tensor, fresh: range | list[int], second: bool = False) -> Tensor:
        beta = self.beta
        for t in fresh:
            self.times[t] = self.times.get(t, 0) + 1
            self.sums[t] = beta * self.sums.get(t, torch.zeros_like(rows[t])) + (1 - beta) * rows[t]
        averages = torch.stack(
            [self.sums[t] / (1 - beta ** self.times[t]) for t in sorted(self.sums)]
        )
        weights = self.method.weights(averages @ averages.T)
        merged = weights @ averages
        if not second:
            return merged
        self.calls += 1
        first = (1 - beta**self.calls) * merged
        slope = (first - beta * self.first) / (1 - beta)
        self.first = first
        self.square = self.beta2 * self.square + (1 - self.beta2) * slope**2
        return merged / ((self.square / (1 - self.beta2**self.calls)).sqrt() + self.eps)


@pytest.mark.parametrize("name", ["config", "upgrad", "mgda", "pcgrad"])
@pytest.mark.parametrize("second", ["none", "pseudo_adam"])
def test_as_it_is_written_down(name: str, second: Any) -> None:
    method, naive = Momentum(method=name, beta=0.7, second=second), Naive(name, 0.7)
    for step in range(6):
        rows = rows_of(step)
        torch.manual_seed(step)
        found = mtl_ops.merge(rows, method)
        torch.manual_seed(step)
        torch.testing.assert_close(found, naive.merged(rows, range(3), second != "none"))


@pytest.mark.parametrize("name", ["config", "mgda", "sum"])
def test_without_momentum_and_with_constant_gradients_it_is_the_method(name: str) -> None:
    for step in range(3):
        found = mtl_ops.merge(rows_of(step), Momentum(method=name, beta=0.0))
        torch.testing.assert_close(found, mtl_ops.merge(rows_of(step), name))
    method, rows = Momentum(method=name, beta=0.9), rows_of(1)
    for _ in range(3):
        torch.testing.assert_close(mtl_ops.merge(rows, method), mtl_ops.merge(rows, name))


@pytest.mark.parametrize("name", ["config", "upgrad"])
def test_on_hard_matrices_it_is_the_method_after_a_round(name: str) -> None:
    """Without momentum at once, and of constant gradients with any."""
    for case in cases(sizes=(3, 8), seeds=1):
        wanted = mtl_ops.merge(case.jacobian, name)
        for method in (Momentum(method=name, beta=0.0), Momentum(method=name, beta=0.9)):
            for _ in range(2):
                found = mtl_ops.merge(case.jacobian, method)
            off = 1e-9 * float(wanted.norm()) + 1e-12 * float(norms(case.jacobian).sum())
            assert float((found - wanted).norm()) <= off, str(case)


def test_config_of_averages_has_equal_cosines() -> None:
    method = Momentum()
    for step in range(5):
        merged = mtl_ops.merge(rows_of(step), method)
    averages = torch.stack([one for one in method.memory[0] if one is not None])
    cosines = torch.cosine_similarity(averages, merged.unsqueeze(0))
    torch.testing.assert_close(cosines, cosines[:1].expand(3))
    assert cosines[0] > 0.1


def test_the_first_step_of_pseudo_adam_is_a_sign() -> None:
    merged = mtl_ops.merge(rows_of(0), Momentum(second="pseudo_adam"))
    torch.testing.assert_close(merged.abs(), torch.ones_like(merged), rtol=1e-6, atol=0.0)


def test_absent_tasks_stay_in_the_merge() -> None:
    param = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = mtl_ops.MultiTaskOptimizer(
        torch.optim.SGD([param], lr=0.0), Momentum(method="sum", beta=0.5), tasks=["a", "b"]
    )
    slopes = {"a": torch.tensor([4.0, 0.0]), "b": torch.tensor([0.0, 2.0])}
    expected = [[4.0, 0.0], [4.0, 2.0], [4.0, 2.0]]  # b comes in the second step, and leaves
    for names, wanted in zip(["a", "ab", "a"], expected, strict=True):
        optimizer.zero_grad()
        optimizer.backward({name: param @ slopes[name].double() for name in names})
        assert param.grad is not None
        assert param.grad.tolist() == wanted
        optimizer.step()


def test_wait_answers_zero_until_all_were_fresh() -> None:
    param = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    method = Momentum(method="sum", before="wait", second="pseudo_adam")
    optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD([param], lr=0.1), method, fresh=1)
    for step in range(3):
        optimizer.zero_grad()
        optimizer.backward([param[0] * 2 + param.sum(), param[1] * 3 + param.sum()])
        assert param.grad is not None
        assert bool(param.grad.any()) == (step > 0)
        optimizer.step()
    assert method.calls is not None
    assert method.calls.item() == 2


@pytest.mark.parametrize("second", ["none", "pseudo_adam"])
def test_a_gradient_that_is_not_finite_leaves_everything(second: Any) -> None:
    method = Momentum(method="mgda", second=second)
    mtl_ops.merge(rows_of(0), method)
    before = str(method.state_dict())
    spoilt = rows_of(1)
    spoilt[1, 0] = torch.inf
    assert mtl_ops.merge(spoilt, method).isnan().all()
    assert str(method.state_dict()) == before
    left = mtl_ops.merge(spoilt, method, nonfinite="skip_task")
    assert left.isfinite().all()
    assert method.counts is not None
    assert method.counts.tolist() == [2.0, 1.0, 2.0]


def test_one_whose_first_gradient_is_not_finite_has_no_part_yet() -> None:
    method, spoilt = Momentum(method="mgda", beta=0.5), rows_of(1)
    spoilt[1] = torch.nan
    found = mtl_ops.merge(spoilt, method, nonfinite="skip_task")
    torch.testing.assert_close(found, mtl_ops.merge(spoilt[[0, 2]], "mgda"))


def test_weights_and_clips_act_before_the_average() -> None:
    rows, method = torch.eye(2) * 4.0, Momentum(method="sum", beta=0.5)
    merged = mtl_ops.merge(rows, method, task_weights=[2.0, 1.0], max_task_norm=1.0)
    assert merged.tolist() == [2.0, 1.0]
    merged = mtl_ops.merge(rows, method, clip_value=3.0)
    torch.testing.assert_close(merged, torch.tensor([2.0 / 3 + 2.0, 1.0 / 3 + 2.0]))
    assert mtl_ops.merge(rows, method, task_weights=[0.0, 1.0])[0] == 0.0


def test_losses_are_the_last_known() -> None:
    class Shown(Method):
        name = "shown"

        def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
            assert losses is not None
            self.seen = losses.tolist()
            return torch.ones_like(losses).unsqueeze(0)

    param = torch.ones(2, dtype=torch.float64, requires_grad=True)
    inner = Shown()
    optimizer = mtl_ops.MultiTaskOptimizer(
        torch.optim.SGD([param], lr=0.0), Momentum(method=inner), tasks=["a", "b"]
    )
    optimizer.backward({"a": param.sum(), "b": (3.0 * param).sum()})
    optimizer.backward({"a": 2.0 * param.sum()})
    assert inner.seen == [4.0, 6.0]


def test_a_checkpoint_goes_on_where_it_was() -> None:
    method = Momentum(method="gradvac", second="pseudo_adam", beta=0.5)
    other = Momentum(method="gradvac", second="pseudo_adam", beta=0.5)
    for step in range(3):
        mtl_ops.merge(rows_of(step), method)
    other.load_state_dict(method.state_dict())
    found = []
    for one in (method, other):
        torch.manual_seed(0)
        found.append(mtl_ops.merge(rows_of(3), one))
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="should be of averages that method 'mgda' weighs"):
        Momentum(method="mgda").load_state_dict(method.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "equal"}, r"should weigh gradients by their inner products.*'equal'"),
        ({"method": "moco"}, r"should weigh gradients by their inner products.*'moco'"),
        ({"beta": 1.0}, r"`beta` should be in \[0, 1\)"),
        ({"beta2": -0.1}, r"`beta2` should be in \[0, 1\)"),
        ({"eps": 0.0}, "`eps` should be positive"),
        ({"second": "adam"}, "`second` should be one of"),
        ({"before": "never"}, "`before` should be one of"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Momentum(**arguments)


def test_other_parameters_are_refused() -> None:
    method = Momentum()
    mtl_ops.merge(rows_of(0), method)
    with pytest.raises(ValueError, match="should see the same parameters in every step"):
        mtl_ops.merge(rows_of(0, size=5), method)


def test_m_config_is_that_of_conflictfree() -> None:
    peer = pytest.importorskip("conflictfree.momentum_operator")
    grads = pytest.importorskip("conflictfree.grad_operator")
    operator = peer.PseudoMomentumOperator(num_vectors=3, gradient_operator=grads.ConFIGOperator())
    param = torch.zeros(6, requires_grad=True)
    method = Momentum(second="pseudo_adam", before="wait")
    optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD([param], lr=0.0), method, fresh=1)
    for step in range(12):
        rows = rows_of(step).float()
        optimizer.zero_grad()
        optimizer.backward([param @ row for row in rows])
        optimizer.step()
        expected = operator.calculate_gradient(step % 3, rows[step % 3])
        assert param.grad is not None
        torch.testing.assert_close(param.grad, expected, rtol=1e-3, atol=1e-5)

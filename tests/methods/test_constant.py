"""Constant weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from multitask import Net, batch, wrap

import mtl_ops
from mtl_ops.methods import Constant

aggregation = pytest.importorskip("torchjd.aggregation")


def test_agrees_with_torchjd() -> None:
    g = torch.Generator().manual_seed(0)
    for tasks in range(1, 9):
        for _ in range(25):
            rows = torch.randn(tasks, 7, generator=g, dtype=torch.float64)
            weights = torch.randn(tasks, generator=g, dtype=torch.float64)
            found = mtl_ops.merge(rows, Constant(weights=weights))
            assert torch.allclose(found, aggregation.Constant(weights)(rows), rtol=1e-13)


def test_one_backward_of_the_weighted_sum() -> None:
    net, passes = Net(), []
    net.trunk[0].weight.register_hook(lambda grad: passes.append(grad))
    optimizer = wrap(net, Constant(weights=[0.5, -2.0, 0.0]))
    losses = net.losses(batch(0))
    wanted = torch.autograd.grad(
        0.5 * losses["a"] - 2.0 * losses["b"], net.trunk[0].weight, retain_graph=True
    )[0]
    passes.clear()
    optimizer.backward(losses)
    assert len(passes) == 1
    assert torch.allclose(net.trunk[0].weight.grad, wanted, rtol=1e-12)


def test_a_loss_that_is_not_finite_takes_no_part() -> None:
    method = Constant(weights=[1.0, 2.0, 3.0])
    losses = torch.tensor([1.0, torch.nan, torch.inf])
    assert method.weights(None, losses).tolist() == [1, 0, 0]
    assert method.weights(torch.eye(3)).tolist() == [1, 2, 3]


def test_later_changes_to_the_argument_do_not_matter() -> None:
    weights = torch.ones(2, dtype=torch.float64)
    method = Constant(weights=weights)
    weights[0] = 5.0
    assert method.weights(None).tolist() == [1, 1]


def test_copies() -> None:
    method = Constant(weights=[1.0, 2.0])
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert repr(other) == "Constant(weights=[1.0, 2.0])"
        assert other.weights(None).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({}, TypeError, "weights"),
        ({"weights": []}, ValueError, "`weights` should hold one finite number for each task"),
        ({"weights": [1.0, float("nan")]}, ValueError, "`weights` should hold one finite number"),
        ({"weights": torch.ones(2, 2)}, ValueError, "`weights` should hold one finite number"),
        ({"weights": {"a": 1.0}}, TypeError, "`weights` should be a sequence of numbers. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("constant", **params)


def test_weights_of_other_tasks() -> None:
    with pytest.raises(ValueError, match="`weights` should hold one number for each of 3 tasks"):
        Constant(weights=[1.0, 2.0]).weights(None, torch.ones(3))

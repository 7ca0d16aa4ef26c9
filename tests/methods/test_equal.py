"""Equal weights: a backward of the summed losses."""

from __future__ import annotations

import pytest
import torch
from multitask import Net, batch, grads, wrap
from resuming import assert_resumes

import mtl_ops
from mtl_ops.methods import Constant, Equal


def test_is_a_backward_of_the_sum() -> None:
    net, other = Net(), Net()
    wrap(net, "equal").backward(net.losses(batch()))
    torch.stack([loss.squeeze() for loss in other.losses(batch()).values()]).sum().backward()
    for one, two in zip(grads(net), grads(other), strict=True):
        torch.testing.assert_close(one, two)


def test_one_backward_for_all_tasks() -> None:
    net, passes = Net(), []
    net.trunk[0].weight.register_hook(lambda grad: passes.append(grad))
    optimizer = wrap(net, "equal")
    optimizer.backward(net.losses(batch()))
    assert len(passes) == 1
    assert optimizer.report.gram is None


def test_weights() -> None:
    method = Equal()
    assert method.weights(None, torch.tensor([-1.0, 2.0, torch.nan])).tolist() == [1.0, 1.0, 0.0]
    assert method.weights(torch.eye(3)).tolist() == [1.0] * 3
    assert method.weights(torch.ones(2, 4, 4)).tolist() == [1.0] * 4
    gradients = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mtl_ops.merge(gradients, "equal"), gradients.sum(dim=0))


def test_methods_that_look_at_no_loss_merge_without() -> None:
    gradients = torch.eye(3, dtype=torch.float64)
    weights = [0.5, 1.0, 2.0]
    constant = mtl_ops.merge(gradients, Constant(weights=weights))
    assert constant.tolist() == weights
    drawn, found = mtl_ops.merge(
        gradients, "random", task_weights=[1.0, 0.0, 2.0], return_weights=True
    )
    assert float(found[0] + found[2] / 2) == pytest.approx(1.0)
    assert drawn[1] == 0.0


def test_a_loss_that_is_not_finite_spoils_nothing() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = wrap([x], "equal", lr=1.0)
    optimizer.backward([x.sum(), (1e6 * x).exp().sum()])  # whose derivative is 0 times Inf
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]
    optimizer.step()
    assert x.tolist() == [0.0, 1.0]


def test_without_any_finite_loss_there_is_no_step() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = wrap([x], "equal")
    optimizer.backward([torch.nan * x.sum(), (1e6 * x).exp().sum()])
    optimizer.step()
    assert x.tolist() == [1.0, 2.0]


def test_resumes() -> None:
    assert_resumes(Equal)

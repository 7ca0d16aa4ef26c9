"""``mtl_ops.cross_gram``."""

from __future__ import annotations

import pytest
import torch
from multitask import Net, batch

import mtl_ops


def test_are_inner_products() -> None:
    net = Net()
    params = list(net.trunk.parameters())
    first, second = net.losses(batch(0)), net.losses(batch(1))

    def rows(losses: dict[str, torch.Tensor]) -> torch.Tensor:
        grads = [torch.autograd.grad(x, params, retain_graph=True) for x in losses.values()]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])

    expected = rows(first) @ rows(second).T
    found = mtl_ops.cross_gram(first, second, params, retain_graph=True)
    torch.testing.assert_close(found, expected)
    assert all(param.grad is None for param in net.parameters())
    sum(first.values()).sum().backward()  # type: ignore[union-attr]


def test_absent_losses_and_sizes() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    found = mtl_ops.cross_gram([x.sum(), None], [x.prod(), None, 3 * x[0]], [x])
    assert found.tolist() == [[3.0, 0.0, 3.0], [0.0, 0.0, 0.0]]


def test_other_parameters() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = torch.tensor([3.0, 4.0], requires_grad=True)
    assert mtl_ops.cross_gram([x.prod()], [y.prod()], [x], [y]).item() == 2 * 4 + 1 * 3
    with pytest.raises(ValueError, match="`second_params` should hold 1 tensors"):
        mtl_ops.cross_gram([x.sum()], [y.sum()], [x], [x, y])
    with pytest.raises(ValueError, match="at least one tensor"):
        mtl_ops.cross_gram([x.sum()], [x.sum()], [y])


def test_methods_take_it() -> None:
    net = Net()
    shared = list(net.trunk.parameters())
    for name in ("sdmgrad", "modo"):
        found = mtl_ops.cross_gram(net.losses(batch(0)), net.losses(batch(1)), shared)
        optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), name)
        optimizer.backward(net.losses(batch(2)), cross_gram=found)
        assert optimizer.report.weights is not None
        assert float(optimizer.report.weights.sum()) == pytest.approx(1.0)

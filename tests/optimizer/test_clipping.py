"""Thresholds, each against what it means in plain torch."""

from __future__ import annotations

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_same, batch, grads, wrap
from torch import Tensor


def task_norms(net: Net) -> Tensor:
    params = list(net.parameters())
    norms = []
    for loss in net.losses(batch(like=net)).values():
        rows = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        norms.append(torch.cat([row.flatten() for row in rows if row is not None]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("max_norm", [0.05, 1.0, 1e6])
def test_sum_with_max_norm_is_clip_grad_norm(max_norm: float, device: torch.device) -> None:
    net, bare = Net(device=device), Net(device=device)
    optimizer = wrap(net, "sum", max_norm=max_norm)
    optimizer.backward(net.losses(batch(like=net)))
    sum(bare.losses(batch(like=bare)).values()).backward()
    total = torch.nn.utils.clip_grad_norm_(bare.parameters(), max_norm)
    # torch divides by the norm plus 1e-6
    assert_same(grads(net), grads(bare), rtol=2e-6 / total.item(), atol=1e-9)
    expected = min(1.0, max_norm / total.item())
    assert optimizer.report.clip_scale.item() == pytest.approx(expected, rel=1e-10)


def test_max_norm_is_over_heads_and_shared_parameters_alike() -> None:
    net = Net()
    wrap(net, Fixed(), max_norm=0.2).backward(net.losses(batch()))
    total = torch.cat([gradient.flatten() for gradient in grads(net)]).norm()
    assert total.item() == pytest.approx(0.2, rel=1e-10)


def test_max_norm_with_each_tensor_by_itself() -> None:
    net = Net()
    wrap(net, "mean", max_norm=0.2, granularity="tensor").backward(net.losses(batch()))
    total = torch.cat([gradient.flatten() for gradient in grads(net)]).norm()
    assert total.item() == pytest.approx(0.2, rel=1e-10)


def test_max_norm_is_of_what_is_added() -> None:
    net = Net()
    optimizer = wrap(net, "mean", max_norm=0.2)
    optimizer.backward(net.losses(batch(0)))
    first = grads(net)
    optimizer.backward(net.losses(batch(1)))
    added = [b - a for a, b in zip(first, grads(net), strict=True)]
    assert torch.cat([g.flatten() for g in added]).norm().item() == pytest.approx(0.2, rel=1e-9)


def test_max_task_norm_shortens_only_what_is_longer() -> None:
    net, other = Net(), Net()
    norms = task_norms(net)
    limit = norms.median().item()
    optimizer = wrap(net, "sum", max_task_norm=limit)
    optimizer.backward(net.losses(batch()))
    factors = (limit / norms).clamp(max=1.0)
    losses = [
        factor * loss for factor, loss in zip(factors, other.losses(batch()).values(), strict=True)
    ]
    torch.autograd.backward(losses)
    assert_same(grads(net), grads(other))
    assert factors.tolist().count(1.0) == 2
    torch.testing.assert_close(optimizer.report.norms, norms)  # as they were measured


def test_clip_value_clamps_each_element_of_each_task() -> None:
    net = Net()
    limit = 0.02
    params = list(net.parameters())
    expected: list[Tensor] = [torch.zeros_like(param) for param in params]
    for loss in net.losses(batch()).values():
        rows = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        for total, row in zip(expected, rows, strict=True):
            if row is not None:
                total += row.clamp(-limit, limit)
    wrap(net, "sum", clip_value=limit).backward(net.losses(batch()))
    assert_same(grads(net), expected)


def test_clip_value_equals_torch_for_one_task() -> None:
    net, bare = Net(), Net()
    wrap(net, "sum", clip_value=0.02, tasks=NAMES).backward({"a": net.losses(batch())["a"]})
    bare.losses(batch())["a"].backward()
    torch.nn.utils.clip_grad_value_(bare.parameters(), 0.02)
    assert_same(grads(net), grads(bare))


def test_zero_gradient_is_not_divided_by() -> None:
    net = Net()
    optimizer = wrap(net, "mean", max_norm=1.0, max_task_norm=1.0)
    optimizer.backward({name: 0.0 * loss for name, loss in net.losses(batch()).items()})
    assert all(not gradient.any() for gradient in grads(net))
    assert optimizer.report.clip_scale == 1.0

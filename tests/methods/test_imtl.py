"""IMTL: learned scales of the losses, and then equal projections of the scaled losses' gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, wrap
from resuming import assert_resumes
from torch import Tensor
from torch.nn import Parameter

import mtl_ops
from mtl_ops.methods import IMTL


def plain_step(net: Net, s: Parameter, step: int) -> None:
    """The method by autograd alone: one backward for each scaled loss, and a linear system."""
    losses = [loss.squeeze() for loss in net.losses(batch(step)).values()]
    scaled = [k.exp() * loss - k for k, loss in zip(s.double(), losses, strict=True)]
    params = [*net.parameters(), s]
    rows = [torch.autograd.grad(x, params, retain_graph=True, allow_unused=True) for x in scaled]
    reached = [[row[p] is not None for row in rows] for p in range(len(params))]
    shared = [p for p in range(len(params) - 1) if sum(reached[p]) > 1]
    rows_of = [
        [torch.zeros_like(params[p]) if row[p] is None else row[p] for p in shared] for row in rows
    ]
    flat = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in rows_of])
    gram = flat @ flat.T
    v = torch.linalg.solve(gram, gram.diagonal().sqrt())
    v = v / v.sum()
    for p, param in enumerate(params):
        found = [
            (v[t] if p in shared else 1.0) * row[p]
            for t, row in enumerate(rows)
            if row[p] is not None
        ]
        param.grad = torch.stack(found).sum(dim=0).to(param.dtype)


def test_trains_as_autograd_does() -> None:
    ours, theirs = Net(), Net()
    optimizer = wrap(ours, "imtl", lr=0.02, tasks=NAMES)
    s = Parameter(torch.zeros(3))
    peer = torch.optim.SGD([*theirs.parameters(), s], lr=0.02)
    for step in range(20):
        optimizer.zero_grad()
        optimizer.backward(ours.losses(batch(step)))
        optimizer.step()
        plain_step(theirs, s, step)
        peer.step()
    assert_same(ours.parameters(), theirs.parameters(), rtol=1e-5, atol=1e-6)
    assert isinstance(optimizer.method, IMTL)
    assert optimizer.method.learned is not None
    torch.testing.assert_close(optimizer.method.learned, s)
    assert (s.detach().abs() > 0.05).all()


def test_is_both_halves() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    losses = torch.tensor([0.5, 2.0, 30.0])
    method = IMTL()
    (s,) = method.learnable(3, rows.device)
    with torch.no_grad():
        s.copy_(torch.tensor([0.3, -1.0, -3.0]))
    merged, w = mtl_ops.merge(rows, method, losses=losses, return_weights=True)
    scaled = s.detach().double().exp().unsqueeze(1) * rows
    torch.testing.assert_close(merged, mtl_ops.merge(scaled, "imtl_g"))
    torch.testing.assert_close(method.weights(rows @ rows.T, losses), w)
    torch.testing.assert_close((w / s.detach().double().exp()).sum(), torch.ones(()).double())
    one, two = IMTL(), mtl_ops.methods.IMTLL()
    for half in (one, two):
        half.add_grads(losses.double())
    assert one.learned is not None
    assert two.learned is not None
    assert_same([one.learned.grad], [two.learned.grad])


def test_an_absent_task_and_one_that_is_not_finite_take_no_part() -> None:
    net = Net()
    optimizer = wrap(net, "imtl", tasks=NAMES)
    losses: dict[str, Any] = net.losses(batch())
    optimizer.backward({**losses, "a": None, "b": losses["b"] * torch.nan})
    learned: Tensor = optimizer.method.learned.grad
    assert (learned != 0).tolist() == [False, False, True]
    assert net.heads["a"].weight.grad is None
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("known", [True, False])
def test_resumes(known: bool) -> None:
    assert_resumes(IMTL, **({"tasks": NAMES} if known else {}))


def test_validation() -> None:
    with pytest.raises(ValueError, match="`on_ascent` should be"):
        IMTL(on_ascent="up")
    with pytest.raises(ValueError, match="`rank_tol` should not be negative"):
        IMTL(rank_tol=-1.0)
    with pytest.raises(TypeError, match="needs the losses"):
        mtl_ops.merge(torch.eye(2), "imtl")
    with pytest.raises(ValueError, match="needs only the Gram"):
        wrap(Net(), "imtl", gram_on="features")

"""Options that go together: what comes out is what each of them says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_same, batch, grads, through, wrap

import mtl_ops
from mtl_ops import MultiTaskOptimizer

GROUPS = [["a", "b"], ["c"]]


def measured_on(net: Net, where: str | None) -> dict[str, Any]:
    layer = list(net.trunk[2].parameters())
    return {} if where is None else {"gram_on": "features" if where == "features" else layer}


def fill(net: Net, where: str | None, **options: Any) -> MultiTaskOptimizer:
    optimizer = wrap(net, "upgrad", **measured_on(net, where), **options)
    features, losses = through(net, batch(like=net))
    optimizer.backward(losses, features=features if where == "features" else None)
    return optimizer


@pytest.mark.parametrize("where", ["features", "a layer"])
def test_gram_on_and_batched(where: str) -> None:
    net, other = Net(), Net()
    one, two = fill(net, where), fill(other, where, batched=True)
    assert_same(grads(net), grads(other))
    torch.testing.assert_close(one.report.gram, two.report.gram)


@pytest.mark.parametrize("where", ["features", "a layer"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_gram_on_and_grad_dtype(where: str, dtype: torch.dtype) -> None:
    net, other = Net(torch.float32), Net(torch.float32)
    one, two = fill(net, where, grad_dtype=dtype), fill(other, where)
    exact = dtype == torch.float64
    assert one.report.gram is not None
    rtol, atol = (1e-5, 1e-7) if exact else (0.03, 0.01)
    torch.testing.assert_close(one.report.gram, two.report.gram, rtol=rtol, atol=atol)
    assert_same(grads(net), grads(other), rtol=rtol, atol=atol)
    assert {g.dtype for g in grads(net) if g is not None} == {torch.float32}
    # what was measured is rounded as the gradients are
    assert torch.equal(one.report.gram, two.report.gram) is False or exact


def by_turns(net: Net, steps: int, where: str | None, every: int) -> None:
    """Turns by hand: weights from one backward, and a backward with weights that are known."""
    inner = torch.optim.SGD(net.parameters(), lr=0.05)
    known: dict[int, list[float]] = {}
    for step in range(steps):
        for number, group in enumerate(GROUPS):
            losses = through(net, batch(step))[1]
            if step % every == 0:
                layer = list(net.trunk[2].parameters())
                params = list(net.parameters()) if where is None else layer
                own = [losses[name] for name in group]
                rows = [
                    torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
                    for loss in own
                ]
                both = [p for p in range(len(params)) if all(row[p] is not None for row in rows)]
                flat = [torch.cat([row[p].flatten() for p in both]) for row in rows]
                _, w = mtl_ops.merge(torch.stack(flat), "upgrad", return_weights=True)
                weights = dict(zip(group, w.tolist(), strict=True))
                known[number] = [weights.get(name, 0.0) for name in NAMES]
            inner.zero_grad()
            taken = {name: losses[name] if name in group else None for name in NAMES}
            mtl_ops.backward(taken, net.parameters(), Fixed(*known[number]))
            inner.step()


@pytest.mark.parametrize(("where", "every"), [(None, 2), ("a layer", 1), ("a layer", 3)])
def test_groups_with_weights_measured_elsewhere(where: str | None, every: int) -> None:
    net, other = Net(), Net()
    options = {"groups": GROUPS, "weights_every": every, **measured_on(net, where)}
    optimizer = wrap(net, "upgrad", **options)
    for step in range(5):
        optimizer.step(lambda step=step: through(net, batch(step))[1])
    by_turns(other, 5, where, every)
    assert_same(net.parameters(), other.parameters(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("where", [None, "features", "a layer"])
@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_micro_batches_take_the_weights_of_the_first(
    where: str | None, max_norm: float | None
) -> None:
    parts = [batch(1), batch(2), batch(3)]
    net, first, other = Net(), Net(), Net()
    every = {"weights_every": 2} if where is None else {}
    fill_first = wrap(first, "upgrad", **measured_on(first, where))
    features, losses = through(first, parts[0], 1 / 3)
    fill_first.backward(losses, features=features if where == "features" else None)
    assert fill_first.report.weights is not None
    weights = fill_first.report.weights[0].tolist()

    optimizer = wrap(net, "upgrad", max_norm=max_norm, **every, **measured_on(net, where))
    for step in range(2):  # the second with the weights of the first, or with its own
        optimizer.zero_grad()
        for part in parts[:-1]:
            features, losses = through(net, part, 1 / 3)
            given = {"features": features} if where == "features" else {}
            optimizer.accumulate(losses, **given)
            assert all(param.grad is None for param in net.parameters())
        features, losses = through(net, parts[-1], 1 / 3)
        given = {"features": features} if where == "features" else {}
        optimizer.backward(losses, **given)
        if step == 0:
            total = {
                name: sum(through(other, part, 1 / 3)[1][name] for part in parts) for name in NAMES
            }
            report = mtl_ops.backward(total, other.parameters(), Fixed(*weights), max_norm=max_norm)
            assert_same(grads(net), grads(other))
            assert optimizer.report.weights is not None
            assert optimizer.report.weights[0].tolist() == pytest.approx(weights)
            assert optimizer.report.losses is not None
            torch.testing.assert_close(optimizer.report.losses, report.losses)
            if max_norm is not None:
                assert optimizer.report.clip_scale is not None
                torch.testing.assert_close(optimizer.report.clip_scale, report.clip_scale)
        optimizer.step()
    if where is None:
        assert optimizer.report.weights[0].tolist() == pytest.approx(weights)


def test_micro_batches_with_other_tasks_have_weights_of_their_own() -> None:
    net, other = Net(), Net()
    optimizer = wrap(net, "upgrad", weights_every=4)
    optimizer.accumulate({**through(net, batch(1))[1], "c": None})
    optimizer.accumulate({**through(net, batch(2))[1], "c": None})
    optimizer.backward(through(net, batch(3))[1])
    parts = [{**through(other, batch(step))[1], "c": None} for step in (1, 2)]
    w = mtl_ops.backward(parts[0], other.parameters(), "upgrad", retain_graph=True).weights
    assert w is not None
    mtl_ops.backward(parts[1], other.parameters(), Fixed(*w[0].tolist()))
    mtl_ops.backward(through(other, batch(3))[1], other.parameters(), "upgrad")
    assert_same(grads(net), grads(other))


def test_a_micro_batch_that_is_not_finite_calls_the_step_off() -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", weights_every=2)
    before = [param.detach().clone() for param in net.parameters()]
    optimizer.accumulate(through(net, batch(1))[1])
    losses = through(net, batch(2))[1]
    optimizer.backward({**losses, "b": losses["b"] * torch.nan})
    optimizer.step()
    assert_same(net.parameters(), before, rtol=0.0, atol=0.0)


def test_zero_grad_forgets_the_weights_of_micro_batches() -> None:
    net, other = Net(), Net()
    optimizer = wrap(net, "upgrad", gram_on=list(net.trunk[2].parameters()))
    optimizer.accumulate(through(net, batch(1))[1])
    optimizer.zero_grad()
    optimizer.backward(through(net, batch(2))[1])
    alone = wrap(other, "upgrad", gram_on=list(other.trunk[2].parameters()))
    alone.backward(through(other, batch(2))[1])
    assert_same(grads(net), grads(other), rtol=0.0, atol=0.0)

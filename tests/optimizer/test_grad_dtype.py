"""``grad_dtype``: task gradients that are stored in another dtype than the parameters'."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from multitask import (
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    grads,
    method,
    train,
    wrap,
)
from torch import Tensor

import mtl_ops.ops
from mtl_ops.gradients.differentiate import differentiate
from mtl_ops.gradients.parameters import Parameters
from mtl_ops.gradients.tasks import Tasks
from mtl_ops.merging.call import Call
from mtl_ops.merging.sink import GRADS
from mtl_ops.optim.merger import Request

BF16 = torch.bfloat16


def merged(net: Net, name: str = "sum", **options: Any) -> list[Tensor | None]:
    torch.manual_seed(0)
    optimizer = wrap(net, method(name), **options)
    optimizer.backward(net.losses(batch(like=net)))
    return grads(net)


@pytest.mark.parametrize("name", ["sum", "mean", "upgrad", "mgda", "pcgrad", "graddrop", "median"])
def test_is_the_merge_of_rounded_gradients(name: str, device: torch.device) -> None:
    net, like = Net(torch.float32, device), Net(torch.float32, device)
    losses = list(like.losses(batch(like=like)).values())
    params = list(like.parameters())
    rounded: list[Tensor | None] = []
    for loss in losses:
        rows = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        rounded += [None if row is None else row.to(BF16).float() for row in rows]
    torch.manual_seed(0)
    values = torch.tensor([loss.item() for loss in losses], dtype=torch.float64, device=device)
    known = Tasks(None, (None,) * 3, part=(True,) * 3, totals=values)
    GRADS.merge(Call(method(name), known, Parameters(params), [1.0] * 3), rounded)
    found = merged(net, name, grad_dtype=BF16, nonfinite="propagate")
    for one, two in zip(found, grads(like), strict=True):
        assert one is not None
        assert one.dtype == torch.float32
        # one more rounding, of the result
        torch.testing.assert_close(one, two, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("name", every_method())
def test_every_method_takes_them(name: str) -> None:
    exact = merged(Net(torch.float32), name)
    stored = merged(Net(torch.float32), name, grad_dtype=BF16, max_task_norm=1e6)
    for one, two in zip(exact, stored, strict=True):
        assert (one is None) == (two is None)
        assert two is None or (two.isfinite().all() and two.dtype == torch.float32)


def test_adds_to_what_is_there() -> None:
    net, once = Net(torch.float32), Net(torch.float32)
    expected = merged(once, grad_dtype=BF16)
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    kept = [param.grad for param in net.parameters()]
    merged(net, grad_dtype=BF16)
    assert_equal(grads(net), [None if e is None else e + 1.0 for e in expected])
    assert all(a is p.grad for a, p in zip(kept, net.parameters(), strict=True))


def test_wider_than_the_parameters() -> None:
    net = Net(BF16)
    found = merged(net, "upgrad", grad_dtype=torch.float32)
    assert all(gradient is not None and gradient.dtype == BF16 for gradient in found)


def test_trains_about_as_well() -> None:
    nets = [Net(torch.float32), Net(torch.float32)]
    for net, dtype in zip(nets, (None, BF16), strict=True):
        train(net, wrap(net, "upgrad", grad_dtype=dtype), range(40))
    first, second = (sum(net.losses(batch(99, like=net)).values()) for net in nets)
    torch.testing.assert_close(first, second, rtol=0.02, atol=0.0)


def test_micro_batches_are_stored_that_way_too() -> None:
    net = Net(torch.float32)
    optimizer = wrap(net, "sum", grad_dtype=BF16)
    halves = [batch(0, like=net), batch(1, like=net)]
    optimizer.accumulate({k: v / 2 for k, v in net.losses(halves[0]).items()})
    stored = optimizer._merger.step.sums
    assert stored is not None
    assert {row.dtype for rows in stored._rows for row in rows if row is not None} == {BF16}
    optimizer.backward({k: v / 2 for k, v in net.losses(halves[1]).items()})
    whole = Net(torch.float32)
    expected = sum(whole.losses(torch.cat(halves)).values())
    expected.backward()
    assert_same(grads(net), grads(whole), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("weights_every", [1, 2])
def test_half_the_bytes_are_alive_before_the_merge(
    weights_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counting(rows: list[Tensor | None], *rest: Any, **options: Any) -> Any:
        blocks = {row.untyped_storage() for row in rows if row is not None}
        seen.append(sum({block.data_ptr(): block.nbytes() for block in blocks}.values()))
        return measure(rows, *rest, **options)

    measure = mtl_ops.ops.gram_and_scales
    monkeypatch.setattr(mtl_ops.ops, "gram_and_scales", counting)
    merged(Net(torch.float32), "upgrad", weights_every=weights_every)
    merged(Net(torch.float32), "upgrad", weights_every=weights_every, grad_dtype=BF16)
    assert seen[1] == seen[0] // 2


def test_what_autograd_returned_is_freed_as_it_is_converted() -> None:
    net = Net(torch.float32)
    alive: list[weakref.ref[Tensor]] = []
    net.trunk[0].weight.register_hook(lambda gradient: alive.append(weakref.ref(gradient)))
    optimizer = wrap(net, "sum", grad_dtype=BF16)
    tasks = optimizer._merger.read(net.losses(batch(like=net)), Request())
    rows = differentiate(tasks, list(net.parameters()), source=optimizer._merger.step.source)
    assert len(alive) == 3
    assert all(reference() is None for reference in alive)
    assert {row.dtype for row in rows if row is not None} == {BF16}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"grad_dtype": "bfloat16"}, TypeError, "should be a torch.dtype or None. Found str"),
        ({"grad_dtype": torch.int8}, ValueError, "should be float32, float64, bfloat16 or float16"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Parameter `grad_dtype` should be.*{message}|{message}"):
        wrap(Net(), **options)

"""``batched``: all task gradients from one backward, or one by one where that cannot be."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from multitask import Net, assert_same, batch, every_method, grads, method, train, wrap
from torch import Tensor, nn


@pytest.mark.parametrize(
    "options",
    [{}, {"max_task_norm": 0.3}, {"granularity": "tensor"}, {"weights_every": 2}],
    ids=str,
)
def test_equals_one_by_one(options: dict[str, Any]) -> None:
    net, other = Net(), Net()
    train(net, wrap(net, "upgrad", batched=True, **options), range(4))
    train(other, wrap(other, "upgrad", **options), range(4))
    assert_same(net.parameters(), other.parameters())


@pytest.mark.parametrize("name", every_method())
def test_every_method(name: str) -> None:
    nets = [Net(), Net()]
    for net, batched in zip(nets, (True, False), strict=True):
        torch.manual_seed(0)
        wrap(net, method(name), batched=batched).backward(net.losses(batch()))
    assert_same(grads(nets[0]), grads(nets[1]))


def test_is_one_backward_and_the_graph_is_freed_once_it_works() -> None:
    net, calls = Net(), []
    net.trunk[0].weight.register_hook(lambda gradient: calls.append(gradient.shape))
    optimizer = wrap(net, "sum", batched=True)
    for _ in range(2):
        losses = net.losses(batch())
        optimizer.backward(losses)
    assert len(calls) == 2
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        optimizer.backward(losses)


def test_tasks_come_and_go_stacked_scaled_and_stored() -> None:
    nets = [Net(torch.float32), Net(torch.float32)]
    for net, batched in zip(nets, (True, False), strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = wrap(
            net, "mean", batched=batched, grad_scaler=scaler, grad_dtype=torch.bfloat16
        )
        data = batch(like=net)
        optimizer.accumulate(net.losses(data))
        optimizer.backward({**net.losses(data), "b": None})
        optimizer.backward(net.losses(data))
    assert_same(grads(nets[0]), grads(nets[1]), rtol=0.02, atol=0.02)
    nets = [Net(), Net()]
    for net, batched in zip(nets, (True, False), strict=True):
        losses = torch.stack(list(net.losses(batch()).values()))
        wrap(net, "mgda", batched=batched).backward(losses)
    assert_same(grads(nets[0]), grads(nets[1]))


class Unbatchable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor) -> Tensor:
        return data.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float(gradient.abs().sum().item() >= 0.0)


class Odd(Net):
    def forward(self, data: Tensor) -> dict[str, Tensor]:
        return super().forward(Unbatchable.apply(self.trunk[0].weight.sum()) * 0 + data)


class Compiled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.forward = torch.compile(self.forward, backend="aot_eager")  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [Odd, Compiled])
def test_falls_back_with_one_warning(kind: type[Net]) -> None:
    torch._dynamo.reset()
    net, other = kind(), kind()
    shared = [*net.trunk.parameters(), *net.neck.parameters()]
    optimizer = wrap(net, "upgrad", batched=True, shared=shared)
    with pytest.warns(UserWarning, match="`batched` should be False for this model"):
        train(net, optimizer, range(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(net, optimizer, range(1, 3))
    shared = [*other.trunk.parameters(), *other.neck.parameters()]
    train(other, wrap(other, "upgrad", shared=shared), range(3))
    assert_same(net.parameters(), other.parameters())


@pytest.mark.filterwarnings("ignore:Parameter `batched`")
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(("cell", "autocast"), [(nn.LSTM, False), (nn.GRU, False), (nn.GRU, True)])
def test_recurrent_networks_and_autocast(cell: type[nn.RNNBase], autocast: bool) -> None:
    found = []
    for batched in (True, False):
        torch.manual_seed(0)
        net = cell(3, 4)
        optimizer = wrap(net, "upgrad", batched=batched)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, _ = net(torch.randn(5, 2, 3))
            losses = [outputs[..., k].float().square().mean() for k in range(3)]
        optimizer.backward(losses)
        found.append(grads(net))
    assert_same(*found, rtol=0.05 if autocast else 1e-4, atol=1e-3 if autocast else 1e-6)

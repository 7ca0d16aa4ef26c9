"""``memory="stream"`` on graphs with something unusual in them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from multitask import (
    Net,
    assert_equal,
    assert_same,
    batch,
    grads,
    wrap,
)
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer

MEMORIES = (None, "stream")

pytestmark = pytest.mark.usefixtures("small_pieces")


class Hidden(torch.autograd.Function):
    """The first argument; the graph leads to the second, which gets no gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        return value * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.filterwarnings("ignore:No loss reaches", "ignore:Sparse gradients stay sparse only")
def test_unusual_parameters(last: int, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        table, layer = nn.Embedding(10, 4, sparse=True), nn.Linear(4, 4)
        own, hidden, idle, tied = (nn.Parameter(torch.ones(4)) for _ in range(4))
        params = [table.weight, *layer.parameters(), own, hidden, idle, tied]
        options = {"granularity": granularity, "nonfinite": "propagate", "memory": memory}
        optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), "upgrad", **options)  # type: ignore[arg-type]
        features = layer(table(torch.tensor([1, 2, 1, 5])) * tied).tanh() * tied
        losses = [features[:, 0].square().mean() + own.sum(), Hidden.apply(features, hidden).sum()]
        optimizer.backward(losses if last else losses[::-1])
        found.append([None if p.grad is None else p.grad.to_dense() for p in params])
    assert_equal(*found)
    assert [grad is None for grad in found[0]] == [False] * 4 + [True, True, False]


def test_a_graph_that_is_kept() -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", memory="stream")
    losses = net.losses(batch())
    optimizer.backward(losses, retain_graph=True)
    once = grads(net)
    optimizer.backward(losses)
    assert_same(grads(net), [None if g is None else 2.0 * g for g in once])


def test_a_compiled_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._functorch.config as config

    monkeypatch.setattr(config, "donated_buffer", True)
    torch._dynamo.reset()
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", memory=memory)
        net.trunk.forward = torch.compile(net.trunk.forward, backend="aot_eager")  # type: ignore[method-assign]
        optimizer.backward(net.losses(batch()))
        found.append(grads(net))
    torch._dynamo.reset()
    assert_same(*found)


# ---- backwards within backwards -------------------------------------------------------------------


class Nested(torch.autograd.Function):
    """The square of ``value · weight``, differentiated by a backward of its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        ctx.weight = weight
        return (value * weight).square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (value,) = ctx.saved_tensors
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            again = (value * ctx.weight).square()
        return torch.autograd.grad(again, (value, ctx.weight), grad)


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("thread", [False, True])
def test_a_backward_within_the_backward(thread: bool, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(5)) for _ in range(3)]

        def other(_: Tensor, params: list[nn.Parameter] = params) -> None:
            with torch.enable_grad():
                value = (params[0] * params[1] * params[2]).sum()
            (gradient,) = torch.autograd.grad(value, params[1])
            assert torch.equal(gradient, params[0] * params[2])

        def in_thread(gradient: Tensor, other: Any = other) -> None:
            worker = threading.Thread(target=other, args=(gradient,))
            worker.start()
            worker.join()

        params[2].register_hook(in_thread if thread else other)
        options = {"granularity": granularity, "nonfinite": "propagate", "memory": memory}
        optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), "sum", **options)  # type: ignore[arg-type]
        features = Nested.apply(Nested.apply(params[2] + 1.0, params[1]), params[0])
        optimizer.backward([features[0], features.sum()])
        found.append([param.grad for param in params])
    assert_equal(*found)


@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_a_gradient_that_does_not_come_again() -> None:
    net = Net()
    optimizer = wrap(net, "sum", memory="stream")
    head = net.heads["c"].bias
    calls = []

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
            return value * 1.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
            calls.append(None)
            return grad, torch.ones(1, dtype=grad.dtype) if len(calls) == 1 else None

    head.data = torch.ones(1, dtype=torch.float64)
    outputs = net(batch())
    outputs["c"] = Once.apply(net.neck(net.trunk(batch())), head)
    losses = {name: output.sum() for name, output in outputs.items()}
    optimizer.backward(losses)
    assert len(calls) == 2
    assert head.grad is None


def test_a_parameter_that_is_twice_in_a_group() -> None:
    found = []
    for memory in MEMORIES:
        x = nn.Parameter(torch.ones(3))
        with pytest.warns(UserWarning, match="duplicate"):
            inner = torch.optim.SGD([x, x], lr=0.1)
        optimizer = MultiTaskOptimizer(inner, "sum", memory=memory)  # type: ignore[arg-type]
        optimizer.backward([x.sum(), 2.0 * x.sum()])
        found.append([x.grad, optimizer.report.gram])
    assert_equal(*found)
    assert found[0][0].tolist() == [3.0] * 3
    assert found[0][1].tolist() == [[[3.0, 6.0], [6.0, 12.0]]]

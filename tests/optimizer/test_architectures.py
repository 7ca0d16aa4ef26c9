"""Networks that are more than layers in a row: recurrent, checkpointed, compiled, tied, custom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import Net, assert_same, batch, grads, wrap
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mtl_ops


class Wrapped(nn.Module):
    """A trunk that makes features of the input, and two heads."""

    def __init__(self, trunk: nn.Module, width: int, how: str = "") -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList([nn.Linear(width, 1), nn.Linear(width, 2)])
        self.how = how

    def losses(self, data: Tensor) -> list[Tensor]:
        if self.how == "checkpoint":
            return self.heads_of(checkpoint(self.trunk, data, use_reentrant=False))
        return self.heads_of(self.trunk(data))

    def heads_of(self, features: Any) -> list[Tensor]:
        if isinstance(features, tuple):  # a recurrent layer and its state
            features = features[0][:, -1]
        return [(self.heads[0](features) - 1).square().mean(), self.heads[1](features).sin().mean()]


def two(make: Any, width: int, how: str = "") -> tuple[Wrapped, Wrapped]:
    """The same network twice."""
    made = []
    for kind in (how, ""):
        torch.manual_seed(0)
        made.append(Wrapped(make(), width, kind).double())
    return made[0], made[1]


def check(net: Wrapped, bare: Wrapped, data: Tensor) -> None:
    """Three steps of ``sum`` equal those of a plain backward, with the gradients of the first."""
    optimizer = wrap(net, "sum", max_norm=1e9)
    other = torch.optim.SGD(bare.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        other.zero_grad()
        torch.manual_seed(1)
        optimizer.backward(net.losses(data))
        torch.manual_seed(1)
        torch.autograd.backward(bare.losses(data))
        assert_same(grads(net), grads(bare))
        optimizer.step()
        other.step()
    assert_same(net.parameters(), bare.parameters())


SEQUENCE = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU], ids=lambda c: c.__name__)
def test_recurrent(layer: type[nn.RNNBase]) -> None:
    check(*two(lambda: layer(4, 6, num_layers=2, batch_first=True), 6), SEQUENCE)


def test_transformer_with_dropout() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, data: Tensor) -> Tensor:
            return self.encoder(data).mean(dim=1)

    check(*two(Encoder, 4), SEQUENCE)


def test_batch_norm_sees_each_batch_once() -> None:
    def trunk() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())

    net, bare = two(trunk, 6)
    check(net, bare, batch())
    assert_same(net.buffers(), bare.buffers())
    assert net.trunk[1].num_batches_tracked == 3


def test_activation_checkpointing() -> None:
    def trunk() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 6))

    check(*two(trunk, 6, how="checkpoint"), batch())


def test_reentrant_checkpointing_is_refused() -> None:
    # Its backward hides the parameters from autograd: they would never be trained.
    net, _ = two(lambda: nn.Linear(5, 6), 6)
    features = checkpoint(net.trunk, batch().requires_grad_(), use_reentrant=True)
    losses = net.heads_of(features)
    for call in (
        lambda: wrap(net).backward(losses),
        lambda: mtl_ops.backward(losses, net.parameters(), "sum"),
    ):
        with pytest.raises(ValueError, match=r"`losses` should .*use_reentrant=False"):
            call()
    assert all(param.grad is None for param in net.parameters())


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(5, 6, bias=False), nn.Linear(6, 5, bias=False)
            self.up.weight = nn.Parameter(self.down.weight.detach().t().clone())
            self.again = nn.Linear(5, 6, bias=False)
            self.again.weight = self.down.weight

        def forward(self, data: Tensor) -> Tensor:
            return self.again(self.up(self.down(data).tanh()).tanh())

    net, bare = two(Tied, 6)
    assert len(list(net.parameters())) == 6
    check(net, bare, batch())


def test_parametrized_weights() -> None:
    def trunk() -> nn.Module:
        return nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))

    check(*two(trunk, 6), batch())


class GradientReversal(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -grad * (x == x)


def test_custom_autograd_function() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 6)

        def forward(self, data: Tensor) -> Tensor:
            return GradientReversal.apply(self.layer(data))

    check(*two(Reversed, 6), batch())


def test_inference_between_steps() -> None:
    net, bare = Net(), Net()
    optimizer = wrap(net, "sum")
    losses = net.losses(batch())
    with torch.inference_mode():
        net.losses(batch(1))
    with torch.no_grad():
        optimizer.backward(losses)
    sum(bare.losses(batch()).values()).backward()
    assert_same(grads(net), grads(bare))


def test_second_derivatives_in_the_loss() -> None:
    # As in a gradient penalty: the graph of the loss holds a backward of its own.
    def losses(net: Net) -> list[Tensor]:
        data = batch().requires_grad_()
        output = net(data)["a"].sum()
        (slope,) = torch.autograd.grad(output, data, create_graph=True)
        return [net(data)["a"].square().mean(), slope.square().sum(), net(data)["b"].mean()]

    net, bare = Net(), Net()
    wrap([*net.trunk.parameters(), *net.heads["a"].parameters()], "sum").backward(losses(net))
    torch.autograd.backward(losses(bare))
    assert_same(grads(net.trunk), grads(bare.trunk))


@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_functional_call() -> None:
    net, bare = Net(), Net()
    params = dict(net.named_parameters())
    outputs = torch.func.functional_call(net, params, (batch(),))
    wrap(net, "sum").backward([outputs["a"].mean(), outputs["b"].square().mean()])
    outputs = bare(batch())
    torch.autograd.backward([outputs["a"].mean(), outputs["b"].square().mean()])
    assert_same(grads(net), grads(bare))

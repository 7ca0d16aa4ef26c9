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
        torch.default_generator.manual_seed(0)
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
        torch.default_generator.manual_seed(0)
        net = cell(3, 4)
        optimizer = wrap(net, "upgrad", batched=batched)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, _ = net(torch.randn(5, 2, 3))
            losses = [outputs[..., k].float().square().mean() for k in range(3)]
        optimizer.backward(losses)
        found.append(grads(net))
    assert_same(*found, rtol=0.05 if autocast else 1e-4, atol=1e-3 if autocast else 1e-6)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", ["loss", "head"])
def test_a_loss_that_is_not_finite_is_left_out_alone(bad: float, place: str) -> None:
    nets = [Net(), Net()]
    for net, batched in zip(nets, (True, False), strict=True):
        if place == "head":
            net.heads["b"].weight.data.fill_(bad)
        losses = net.losses(batch())
        if place == "loss":
            losses["b"] = losses["b"] * bad
        optimizer = wrap(net, "mean", batched=batched)
        optimizer.backward(losses)
        assert optimizer.report.weights[0].tolist() == [0.5, 0.0, 0.5]
    found = [grads([*net.trunk.parameters(), *net.neck.parameters()]) for net in nets]
    assert all(gradient.isfinite().all() for gradient in found[0])
    assert_same(*found)


class Plain(Net):
    """All heads leave the trunk in the same place."""

    def forward(self, data: Tensor) -> dict[str, Tensor]:
        features = self.trunk(data)
        return {name: head(features) for name, head in self.heads.items()}


def calls_of(optimizer: Any, net: Net) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the gradients that hooks see in one step."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, param in net.named_parameters():
        calls = seen.setdefault(name, [])
        param.register_hook(lambda gradient, calls=calls: calls.append(tuple(gradient.shape)))
    optimizer.backward(net.losses(batch()))
    return seen


@pytest.mark.parametrize("batched", [True, False])
def test_each_head_is_differentiated_once_and_by_itself(batched: bool) -> None:
    net = Plain()
    seen = calls_of(wrap([*net.trunk.parameters(), *net.heads.parameters()], batched=batched), net)
    for name in (
        name for name in seen if not name.startswith("neck")
    ):  # which no task goes through
        calls = seen[name]
        assert len(calls) == (1 if batched or name.startswith("heads") else 3)


def test_what_some_share_above_the_others_is_not_batched() -> None:
    net = Net()
    seen = calls_of(wrap(net, batched=True), net)
    assert len(seen["neck.weight"]) == 2
    assert len(seen["trunk.0.weight"]) == len(seen["heads.b.weight"]) == 1


@pytest.mark.parametrize("where", ["features", "inside", "head"])
def test_hooks_that_change_a_gradient_do_so_once(where: str) -> None:
    nets = [Plain(), Plain()]
    for net, batched in zip(nets, (True, False), strict=True):
        module = {"features": net.trunk, "inside": net.trunk[1], "head": net.heads["a"]}[where]
        module.register_forward_hook(lambda *given: given[2].register_hook(torch.neg) and None)
        params = [*net.trunk.parameters(), *net.heads.parameters()]
        wrap(params, "upgrad", batched=batched).backward(net.losses(batch()))
    assert_same(grads(nets[0]), grads(nets[1]))


def extra(net: Net, losses: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Losses that share more than a trunk."""
    if kind == "penalty":
        losses["a"] = losses["a"] + sum(param.square().sum() for param in net.trunk.parameters())
    elif kind == "tied":
        losses["c"] = losses["c"] * net.trunk[2].weight.sum()
    elif kind == "sum of others":
        losses["c"] = losses["a"] + losses["b"]
    elif kind == "the same twice":
        losses["c"] = losses["a"]
    elif kind == "a parameter alone":
        losses["b"] = net.trunk[0].bias.square().sum()
    elif kind == "a head of another":
        losses["b"] = losses["b"] + net.heads["a"].weight.abs().sum()
    elif kind == "a leaf":
        losses["b"] = net.lone
    elif kind == "joined":
        joined = torch.stack(list(losses.values())).sin()
        losses = dict(zip(losses, joined.split([1, 1, 1]), strict=True))
    return losses


KINDS = ["penalty", "tied", "sum of others", "the same twice", "a parameter alone"]
KINDS += ["a head of another", "a leaf", "joined"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [Plain, Net])
@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_any_graph(network: type[Net], kind: str) -> None:
    nets = [network(), network()]
    for net, batched in zip(nets, (True, False), strict=True):
        net.lone = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        optimizer = wrap(net, "upgrad", batched=batched, max_task_norm=2.0)
        for step in range(2):
            optimizer.backward(extra(net, net.losses(batch(step)), kind))
    assert_same(grads(nets[0]), grads(nets[1]))


def test_the_graph_is_kept_on_demand() -> None:
    net = Net()
    optimizer = wrap(net, "sum", batched=True)
    for step in range(2):
        losses = net.losses(batch(step))
        for _ in range(3):
            optimizer.backward(losses, retain_graph=True)
        optimizer.backward(losses)
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        optimizer.backward(losses)

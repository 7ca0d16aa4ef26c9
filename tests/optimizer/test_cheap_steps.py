"""Steps at the cost of one backward: ``gram_on`` and ``weights_every``."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import Method

INPUT = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A trunk, three heads, and a layer below the heads that two of them share."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
        self.neck = nn.Linear(6, 6)
        self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        self.backbones = 0
        self.trunk[0].weight.register_hook(self._count)

    def _count(self, _: Tensor) -> None:
        self.backbones += 1

    def forward(self, data: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.trunk(data)
        necks = [features, self.neck(features), self.neck(features)]
        outputs = [head(neck) for head, neck in zip(self.heads, necks, strict=True)]
        losses = [(output - 1).square().mean() * 10.0**k for k, output in enumerate(outputs)]
        return features, dict(zip("abc", losses, strict=True))


class Fixed(Method):
    """Weights that differ, so that a mix-up of tasks shows."""

    name = "fixed"

    def __init__(self) -> None:
        self.calls = 0

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        assert gram is not None
        self.calls += 1
        return torch.tensor([0.5, 2.0, 0.25], dtype=torch.float64).expand(gram.shape[:-1])


def train(steps: int, **options: Any) -> tuple[Net, MultiTaskOptimizer]:
    net = Net()
    method = options.pop("method", None) or Fixed()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=1e-3), method, **options)
    for _ in range(steps):
        take_step(net, optimizer)
    return net, optimizer


def take_step(net: Net, optimizer: MultiTaskOptimizer, **absent: None) -> None:
    optimizer.zero_grad()
    features, losses = net(INPUT)
    needed = optimizer.settings.gram_on == "features"
    optimizer.backward({**losses, **absent}, features=features if needed else None)
    optimizer.step()


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(
            one, two, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


CHEAP = [
    {"gram_on": "features"},
    {"weights_every": 3},
    {"gram_on": "features", "weights_every": 2},
]


@pytest.mark.parametrize("options", CHEAP, ids=str)
def test_with_weights_that_do_not_depend_on_g_every_way_is_exact(options: dict[str, Any]) -> None:
    weights = {"a": 1.0, "b": 3.0, "c": 0.1}
    exact, _ = train(4, task_weights=weights)
    cheap, _ = train(4, task_weights=weights, **options)
    assert_same(exact, cheap)


def test_gram_on_parameters_is_exact_with_such_weights() -> None:
    exact, _ = train(1)
    net = Net()
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(net.parameters(), lr=1e-3), Fixed(), gram_on=list(net.trunk[2].parameters())
    )
    take_step(net, optimizer)
    assert_same(exact, net)


@pytest.mark.parametrize("options", CHEAP, ids=str)
@pytest.mark.parametrize("max_norm", [0.3, 1e6])
def test_max_norm_is_exact(options: dict[str, Any], max_norm: float) -> None:
    exact, first = train(3, max_norm=max_norm)
    cheap, second = train(3, max_norm=max_norm, **options)
    assert_same(exact, cheap)
    torch.testing.assert_close(first.report.clip_scale, second.report.clip_scale)


def test_features_need_one_backward_of_the_trunk() -> None:
    assert train(1)[0].backbones == 3
    assert train(1, gram_on="features")[0].backbones == 1
    assert train(5, weights_every=5)[0].backbones == 3 + 4


def test_features_gram_is_that_of_the_features() -> None:
    net = Net()
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(net.parameters(), lr=1e-3), "upgrad", gram_on="features"
    )
    features, losses = net(INPUT)
    rows = torch.stack(
        [
            torch.autograd.grad(loss, features, retain_graph=True)[0].flatten()
            for loss in losses.values()
        ]
    ).double()
    optimizer.backward(losses, features=features)
    torch.testing.assert_close(optimizer.report.gram, (rows @ rows.T).unsqueeze(0))
    expected = mtl_ops.methods.get("upgrad").weights(rows @ rows.T)
    torch.testing.assert_close(optimizer.report.weights[0], expected)


def test_weights_are_solved_every_kth_step() -> None:
    _, optimizer = train(7, weights_every=3)
    assert optimizer.method.calls == 3  # steps 0, 3, 6


def test_weights_are_solved_anew_when_other_tasks_are_there() -> None:
    net, optimizer = train(1, weights_every=10)
    take_step(net, optimizer, b=None)
    assert optimizer.method.calls == 2
    assert optimizer.report.weights[0, 1] == 0


def test_upgrad_on_features_trains_about_as_well() -> None:
    exact, _ = train(30, method="upgrad")
    cheap, _ = train(30, method="upgrad", gram_on="features")
    start = sum(loss.item() for loss in Net()(INPUT)[1].values())
    for net in (exact, cheap):
        assert sum(loss.item() for loss in net(INPUT)[1].values()) < 0.5 * start


@pytest.mark.parametrize("options", CHEAP, ids=str)
def test_resumes_bit_for_bit(options: dict[str, Any]) -> None:
    whole, _ = train(6, method="upgrad", **options)
    net, optimizer = train(4, method="upgrad", **options)
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    model_state, state = torch.load(file, weights_only=True)
    again, resumed = train(0, method="upgrad", **options)
    again.load_state_dict(model_state)
    resumed.load_state_dict(state)
    for _ in range(2):
        take_step(again, resumed)
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("options", CHEAP, ids=str)
def test_a_broken_head_loses_the_step_or_the_task(options: dict[str, Any]) -> None:
    net, optimizer = train(1, **options)
    before = [param.clone() for param in net.parameters()]
    features, losses = net(INPUT)
    losses["b"] = losses["b"] * torch.nan
    optimizer.zero_grad()
    optimizer.backward(
        losses, features=features if optimizer.settings.gram_on == "features" else None
    )
    optimizer.step()
    assert all(param.isfinite().all() for param in net.parameters())
    changed = any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    # on features the task is left out, as everywhere; a joint backward has lost the step
    assert changed == (options.get("gram_on") == "features" and "weights_every" not in options)


@pytest.mark.parametrize("options", CHEAP, ids=str)
def test_adds_to_what_is_there(options: dict[str, Any]) -> None:
    weights = {"a": 1.0, "b": 3.0, "c": 0.1}
    # the second step, in which all are cheap; the first in place of nothing, the second of ones
    nets = [train(1, task_weights=weights, **options) for _ in range(2)]
    for start, (net, optimizer) in enumerate(nets):
        for param in net.parameters():
            param.grad = torch.ones_like(param) if start else None
        features, losses = net(INPUT)
        optimizer.backward(losses, features=features if "gram_on" in options else None)
    for one, two in zip(nets[0][0].parameters(), nets[1][0].parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad + 1.0, two.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", CHEAP, ids=str)
@pytest.mark.parametrize("head", [True, False], ids=["head", "trunk"])
def test_nothing_is_in_grad_after_an_error(options: dict[str, Any], head: bool) -> None:
    net, optimizer = train(1, nonfinite="raise", **options)
    optimizer.zero_grad()
    features, losses = net(INPUT)
    if head:
        net.heads[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    else:
        net.trunk[0].weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(RuntimeError, match="is not finite"):
        optimizer.backward(losses, features=features if "gram_on" in options else None)
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights_every": 0}, "`weights_every` should be a positive integer"),
        ({"gram_on": "layers"}, "`gram_on` should be None"),
        ({"gram_on": []}, "`gram_on` should be None"),
        ({"gram_on": [torch.zeros(1)]}, "`gram_on` should hold parameters of the optimizer"),
        ({"gram_on": "features", "clip_value": 1.0}, "`clip_value` should be None"),
        ({"gram_on": "features", "max_task_norm": 1.0}, "`max_task_norm` should be None"),
        ({"weights_every": 2, "clip_value": 1.0}, "`clip_value` should be None"),
        ({"weights_every": 2, "granularity": "tensor"}, "with `granularity"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(0, **options)


def test_features_that_are_missing_or_unused_or_too_many() -> None:
    net, optimizer = train(0, gram_on="features")
    _, losses = net(INPUT)
    with pytest.raises(ValueError, match="`features` should be a tensor"):
        optimizer.backward(losses)
    with pytest.raises(ValueError, match="`features` should be what the losses"):
        optimizer.backward(losses, features=torch.zeros(1, requires_grad=True))
    assert all(param.grad is None for param in net.parameters())
    net, optimizer = train(0)
    features, losses = net(INPUT)
    with pytest.raises(ValueError, match="`features` should be given with"):
        optimizer.backward(losses, features=features)

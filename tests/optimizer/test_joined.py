"""Predictions that are joined in one tensor before each loss takes its part: each head stays its own task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import assert_equal, assert_same, grads, wrap
from torch import Tensor, nn

TARGETS = (1.0, -1.0, 0.3)


class Heads(nn.Module):
    """A trunk and three heads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        self.double()

    def forward(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        features = self.trunk(torch.randn(8, 5, generator=generator, dtype=torch.float64))
        return [head(features) for head in self.heads]


def losses(outputs: Any) -> list[Tensor]:
    """One for each output, of very different sizes."""
    return [
        (output.reshape(8) - target).square().mean() * 10.0**k
        for k, (output, target) in enumerate(zip(outputs, TARGETS, strict=True))
    ]


def assigned(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(8, 3, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[:, k] = output[:, 0]
    return joined


def assigned_by_index(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(3, 8, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[torch.tensor([k])] = output.T
    return joined


def assigned_in_part(outputs: list[Tensor]) -> Tensor:
    joined = torch.cat([outputs[0], outputs[0], outputs[0]], dim=1).clone()
    joined[..., 1:] = torch.cat(outputs[1:], dim=1)
    return joined


def preallocated_losses(outputs: list[Tensor]) -> Tensor:
    found = torch.zeros(3, dtype=torch.float64)
    for k, loss in enumerate(losses(outputs)):
        found[k] = loss
    return found


def columnwise(outputs: list[Tensor]) -> Tensor:
    errors = (torch.cat(outputs, 1) - torch.tensor(TARGETS, dtype=torch.float64)).square()
    return errors.mean(dim=0) * 10.0 ** torch.arange(3)


def columns(joined: Tensor) -> list[Tensor]:
    return [joined[:, k] for k in range(3)]


JOINED: dict[str, Callable[[list[Tensor]], list[Tensor] | Tensor]] = {
    "cat, slice": lambda y: losses([torch.cat(y, 1)[:, k : k + 1] for k in range(3)]),
    "joined for each": lambda y: losses([torch.stack(y)[k] for k in range(3)]),
    "cat, select": lambda y: losses(columns(torch.cat(y, 1))),
    "cat, ellipsis": lambda y: losses([torch.cat(y, -1)[..., k - 3] for k in range(3)]),
    "cat, index": lambda y: losses([torch.cat(y, 1)[:, torch.tensor([k])] for k in range(3)]),
    "cat, index_select": lambda y: losses(
        [torch.cat(y, 1).index_select(1, torch.tensor([k])) for k in range(3)]
    ),
    "cat, chunk": lambda y: losses(torch.cat(y, 1).chunk(3, 1)),
    "cat, split": lambda y: losses(torch.cat(y, -1).split([1, 1, 1], -1)),
    "cat, view": lambda y: losses(columns(torch.cat(y, 1).reshape(-1).view(2, 4, 3).flatten(0, 1))),
    "cat of rows": lambda y: losses(torch.cat(y, 0).view(3, 8)),
    "stack, index": lambda y: losses([torch.stack(y)[k] for k in range(3)]),
    "stack, unbind": lambda y: losses(torch.stack(y, -1).unbind(-1)),
    "stack, permute": lambda y: losses(torch.stack(y, 1).permute(1, 2, 0).contiguous().squeeze(1)),
    "zeros, assignment": lambda y: losses(columns(assigned(y))),
    "zeros, assignment by index": lambda y: losses(assigned_by_index(y).unbind()),
    "assignment of a join": lambda y: losses(columns(assigned_in_part(y))),
    "a constant among them": lambda y: losses(
        columns(torch.cat([y[0], torch.zeros_like(y[0]), *y[1:]], 1)[:, [0, 2, 3]])
    ),
    "preallocated losses": preallocated_losses,
    "preallocated losses, item by item": lambda y: list(preallocated_losses(y)),
    "columns of errors": columnwise,
    "stacked losses times a factor": lambda y: 1.0 * torch.stack(losses(y)),
}


@pytest.mark.parametrize("method", ["upgrad", "mgda", "nash_mtl", "pcgrad"])
@pytest.mark.parametrize("form", JOINED)
def test_is_the_same_as_not_joined(form: str, method: str) -> None:
    apart, joined = Heads(), Heads()
    torch.default_generator.manual_seed(0)
    first = wrap(apart, method)
    first.backward(losses(apart()))
    torch.default_generator.manual_seed(0)
    second = wrap(joined, method)
    second.backward(JOINED[form](joined()))
    assert_same(grads(apart), grads(joined), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first.report.gram, second.report.gram)
    if form not in ("columns of errors", "cat, view", "stacked losses times a factor"):
        assert_equal(grads(apart), grads(joined))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batched": True},
        {"memory": "stream"},
        {"weights_every": 2},
        {"granularity": "tensor"},
        {"max_task_norm": 0.5},
        {"grad_dtype": torch.float32},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "form", ["cat, select", "joined for each", "stack, unbind", "zeros, assignment"]
)
def test_in_every_kind_of_step(form: str, options: dict[str, Any]) -> None:
    apart, joined = Heads(), Heads()
    first, second = wrap(apart, "upgrad", **options), wrap(joined, "upgrad", **options)
    for _ in range(3):
        for net, optimizer, join in ((apart, first, losses), (joined, second, JOINED[form])):
            optimizer.zero_grad()
            optimizer.backward(join(net()))
            optimizer.step()
    assert_same(apart.parameters(), joined.parameters(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(first.report.gram, second.report.gram)


def test_on_features() -> None:
    nets = [Heads(), Heads()]
    for net, join in zip(nets, (losses, JOINED["cat, select"]), strict=True):
        kept: list[Tensor] = []
        net.trunk.register_forward_hook(lambda *given, kept=kept: kept.append(given[2]))
        found = join(net())
        wrap(net, "mgda", gram_on="features").backward(found, features=kept[0])
    assert_equal(grads(nets[0]), grads(nets[1]))


def test_accumulated() -> None:
    nets = [Heads(), Heads()]
    for net, join in zip(nets, (losses, JOINED["cat, chunk"]), strict=True):
        optimizer = wrap(net, "mgda")
        optimizer.accumulate(join(net()))
        optimizer.backward(join(net()))
    assert_same(grads(nets[0]), grads(nets[1]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("form", JOINED)
def test_nothing_is_warned_of(form: str) -> None:
    net = Heads()
    wrap(net).backward(JOINED[form](net()))


HIDDEN: dict[str, Callable[[Tensor, int], Tensor]] = {
    "a matrix": lambda joined, k: joined @ torch.eye(3, dtype=joined.dtype)[k],
    "a mask": lambda joined, k: (joined * torch.eye(3, dtype=joined.dtype)[k]).sum(1),
    "gather": lambda joined, k: joined.gather(1, torch.full((8, 1), k)),
    "where": lambda joined, k: torch.where(torch.eye(3)[k] > 0, joined, 0.0).sum(1),
    "masked_select": lambda joined, k: joined.masked_select((torch.eye(3)[k] > 0).expand(8, 3)),
}


@pytest.mark.parametrize("pick", HIDDEN)
def test_a_part_that_cannot_be_told_is_warned_of_once(pick: str) -> None:
    net = Heads()
    optimizer = wrap(net, "upgrad")

    def step() -> None:
        joined = torch.cat(net(), 1)
        optimizer.backward(losses([HIDDEN[pick](joined, k) for k in range(3)]))

    with pytest.warns(UserWarning, match=r"seem to reach 6 parameters .*`shared`") as seen:
        step()
    assert [warning.filename for warning in seen] == [__file__]
    step()
    assert len(seen) == 1


@pytest.mark.filterwarnings("error")
def test_shared_says_what_cannot_be_told() -> None:
    nets = [Heads(), Heads()]
    wrap(nets[0], "mgda").backward(losses(nets[0]()))
    joined = torch.cat(nets[1](), 1)
    picked = losses([HIDDEN["a matrix"](joined, k) for k in range(3)])
    wrap(nets[1], "mgda", shared=nets[1].trunk.parameters()).backward(picked)
    assert_same(grads(nets[0]), grads(nets[1]))


@pytest.mark.filterwarnings("error")
def test_joined_features_are_no_heads() -> None:
    halves = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)]).double()
    heads = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)]).double()
    features = torch.cat([half(torch.ones(2, 5, dtype=torch.float64)) for half in halves], 1)
    optimizer = wrap([*halves.parameters(), *heads.parameters()])
    optimizer.backward([head(features).sum() for head in heads])
    assert optimizer.report.gram.shape == (1, 2, 2)
    assert all(param.grad is not None for param in halves.parameters())


@pytest.mark.filterwarnings("error")
def test_heads_that_start_from_zeros_are_not_mistaken() -> None:
    halves = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)]).double()
    heads = nn.ModuleList([nn.Linear(6, 1), nn.Linear(6, 1)]).double()
    for head in heads:
        nn.init.zeros_(head.weight)
    features = torch.cat([half(torch.ones(2, 5, dtype=torch.float64)) for half in halves], 1)
    wrap([*halves.parameters(), *heads.parameters()]).backward([h(features).sum() for h in heads])


def test_an_encoder_that_only_one_task_uses_of_joined_features() -> None:
    apart, joined = Heads(), Heads()
    encoders = [nn.Linear(6, 6).double() for _ in range(2)]
    for net in (apart, joined):
        data = torch.ones(4, 5, dtype=torch.float64)
        parts = [encoder(net.trunk(data)) for encoder in encoders]
        if net is joined:
            parts = torch.cat(parts, 1).split(6, 1)
        found = [head(part.tanh()).sum() for head, part in zip(net.heads, parts, strict=False)]
        params = [*net.trunk.parameters(), *net.heads[:2].parameters()]
        params += [p for encoder in encoders for p in encoder.parameters()]
        wrap(params, "mgda").backward(found)
        net.encoded = [param.grad for encoder in encoders for param in encoder.parameters()]
        for encoder in encoders:
            encoder.zero_grad()
    assert_equal(apart.encoded, joined.encoded)
    assert_equal(grads(apart), grads(joined))

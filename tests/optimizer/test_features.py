"""``gram_on="features"`` for graphs in which not everything goes through the features, and once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import Fixed, assert_same, grads, wrap
from torch import Tensor, nn

import mtl_ops

WEIGHTS = (0.5, 2.0, 0.25)


class Scales(nn.Module):
    """Two blocks one after the other, the output of each of which a head can use, and three heads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.first = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
            self.second = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        self.double()

    def forward(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        generator = torch.Generator().manual_seed(1)
        fine = self.first(torch.randn(8, 5, generator=generator, dtype=torch.float64))
        coarse = self.second(fine)
        losses = [(head(coarse) - k).square().mean() * 3.0**k for k, head in enumerate(self.heads)]
        return fine, coarse, losses


Features = Tensor | list[Tensor]


def through(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    return coarse, losses


def nested(net: Scales) -> tuple[Features, list[Tensor]]:
    fine, coarse, losses = net()
    losses[0] = losses[0] + net.heads[0](fine).square().mean()
    return [fine, coarse], losses


def nested_views(net: Scales) -> tuple[Features, list[Tensor]]:
    fine, _, losses = net()
    view = fine.view(4, 12)
    losses[1] = losses[1] + view.sin().mean()
    return [view, fine], losses


def tied(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    losses[2] = (coarse @ net.second[0].weight).square().mean()
    return coarse, losses


def penalty(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    losses[0] = losses[0] + sum(param.square().sum() for param in net.first.parameters())
    return coarse, losses


def bypass(net: Scales) -> tuple[Features, list[Tensor]]:
    fine, coarse, losses = net()
    losses[1] = net.heads[1](fine).square().mean()
    return coarse, losses


def skip(net: Scales) -> tuple[Features, list[Tensor]]:
    fine, coarse, losses = net()
    losses[1] = net.heads[1](fine + coarse).square().mean()
    return coarse, losses


def repeated(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    return [coarse, coarse, coarse], losses


def a_part_of_them(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    left, right = coarse.split(3, 1)
    losses[0] = left.square().mean()
    losses[1] = (left.detach() * right).sum()
    return left, losses


def hooked(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    coarse.register_hook(lambda gradient: -2 * gradient)
    return coarse, losses


def a_parameter(net: Scales) -> tuple[Features, list[Tensor]]:
    _, _, losses = net()
    return net.second[0].weight, losses


def side_by_side(net: Scales) -> tuple[Features, list[Tensor]]:
    _, coarse, losses = net()
    other = net.first[0](torch.ones(8, 5, dtype=torch.float64))
    losses[1] = losses[1] + net.heads[1](other).cos().mean()
    return [coarse, other], losses


GRAPHS = [through, nested, nested_views, tied, penalty, bypass, skip, repeated, a_part_of_them]
GRAPHS += [hooked, a_parameter, side_by_side]
Graph = Callable[[Scales], tuple[Features, list[Tensor]]]


def expected(graph: Graph) -> tuple[list[Tensor | None], Tensor]:
    """The merged gradient with known weights, and G at the features, from one backward of each loss."""
    net = Scales()
    features, losses = graph(net)
    params = list(net.parameters())
    rows = [torch.autograd.grad(x, params, retain_graph=True, allow_unused=True) for x in losses]
    merged: list[Tensor | None] = []
    for p in range(len(params)):
        reached = [(t, row[p]) for t, row in enumerate(rows) if row[p] is not None]
        factors = WEIGHTS if len(reached) > 1 else (1.0, 1.0, 1.0)
        merged.append(sum(factors[t] * row for t, row in reached) if reached else None)
    unique: list[Tensor] = []
    for feature in [features] if isinstance(features, Tensor) else features:
        if all(feature is not other for other in unique):
            unique.append(feature)
    at = []
    for loss in losses:
        found = torch.autograd.grad(loss, unique, retain_graph=True, materialize_grads=True)
        at.append(torch.cat([gradient.flatten() for gradient in found]))
    return merged, torch.stack(at) @ torch.stack(at).T


@pytest.mark.filterwarnings("ignore:No loss reaches")
@pytest.mark.parametrize("options", [{}, {"max_norm": 1e6}, {"nonfinite": "raise"}], ids=str)
@pytest.mark.parametrize("graph", GRAPHS)
def test_is_one_backward_of_the_weighted_losses(graph: Graph, options: dict[str, Any]) -> None:
    merged, gram = expected(graph)
    net = Scales()
    optimizer = wrap(net, Fixed(*WEIGHTS), gram_on="features", **options)
    features, losses = graph(net)
    optimizer.backward(losses, features=features)
    assert_same(grads(net), merged)
    torch.testing.assert_close(optimizer.report.gram[0], gram)


@pytest.mark.filterwarnings("ignore:No loss reaches")
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_sum_is_the_plain_sum(graph: Graph) -> None:
    net, plain = Scales(), Scales()
    optimizer = wrap(net, "sum", gram_on="features", weights_every=2)
    for _ in range(2):
        optimizer.zero_grad()
        features, losses = graph(net)
        optimizer.backward(losses, features=features)
        plain.zero_grad()
        sum(graph(plain)[1]).backward()
        assert_same(grads(net), grads(plain))
        optimizer.step()
        plain.load_state_dict(net.state_dict())


@pytest.mark.filterwarnings("ignore:No loss reaches")
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_weights_are_those_of_the_features(graph: Graph) -> None:
    net = Scales()
    optimizer = wrap(net, "upgrad", gram_on="features")
    features, losses = graph(net)
    optimizer.backward(losses, features=features)
    weights = mtl_ops.methods.get("upgrad").weights(expected(graph)[1])
    torch.testing.assert_close(optimizer.report.weights[0], weights)


def test_adds_to_what_is_there_and_keeps_the_graph_on_demand() -> None:
    net, twice = Scales(), Scales()
    one = wrap(net, "sum", gram_on="features")
    features, losses = nested(net)
    one.backward(losses, features=features, retain_graph=True)
    one.backward(losses, features=features)
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        one.backward(losses, features=features)
    (2 * sum(nested(twice)[1])).backward()
    assert_same(grads(net), grads(twice))


@pytest.mark.parametrize("graph", [through, repeated])
def test_what_goes_through_the_features_alone_takes_one_backward_of_the_trunk(graph: Graph) -> None:
    net, calls = Scales(), []
    net.second[0].weight.register_hook(lambda gradient: calls.append(gradient.shape))
    features, losses = graph(net)
    wrap(net, "sum", gram_on="features").backward(losses, features=features)
    assert len(calls) == 1

"""Several processes, and graphs that not everybody has the same of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import DATA, assert_same, on_processes
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")


class Heads(nn.Module):
    """A trunk and three heads, whose outputs may be joined before each loss takes its column."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(7, 1) for _ in range(3)])
        self.double()

    def forward(self, data: Tensor, joined: bool) -> tuple[Tensor, list[Tensor]]:
        features = self.trunk(data.double())
        outputs = [head(features) for head in self.heads]
        if joined:
            outputs = [torch.cat(outputs, 1)[:, k : k + 1] for k in range(3)]
        return features, [(y - k).square().mean() * (k + 1) for k, y in enumerate(outputs)]


def made(net: nn.Module, **options: Any) -> MultiTaskOptimizer:
    return MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.01), "upgrad", **options)


def joined_predictions(rank: int, world: int) -> None:
    kinds: list[dict[str, Any]] = [{}, {"batched": True}, {"weights_every": 2}]
    for options in [*kinds, {"gram_on": "features"}, {"distributed": "mean_gram"}]:
        apart, joined = Heads(), Heads()
        for net in (apart, joined):
            optimizer = made(net, **options)
            for _ in range(3):
                optimizer.zero_grad()
                features, losses = net(DATA.chunk(world)[rank], net is joined)
                given = {"features": features} if "gram_on" in options else {}
                optimizer.backward(losses, **given)
                optimizer.step()
        assert_same(apart, joined, 1e-9)


def past_the_features_on_one_rank(rank: int, world: int) -> None:
    """Task 2 is on the last rank only, and reaches the trunk past the features as well."""
    alone, joint = Heads(), Heads()
    first, second = (
        made(alone, gram_on="features", distributed=None),
        made(joint, gram_on="features"),
    )
    for _ in range(3):
        for net, optimizer, data in (
            (alone, first, DATA),
            (joint, second, DATA.chunk(world)[rank]),
        ):
            optimizer.zero_grad()
            features, losses = net(data, False)
            part = features.chunk(world)[-1] if net is alone else features
            losses[2] = net.heads[2](part).square().mean()
            losses[2] = losses[2] + sum(param.square().sum() for param in net.trunk.parameters())
            if net is joint and rank != world - 1:
                losses[2] = None
            optimizer.backward(losses, features=features)
            optimizer.step()
    assert_same(alone, joint)


def test_on_processes() -> None:
    on_processes(2, [joined_predictions, past_the_features_on_one_rank])

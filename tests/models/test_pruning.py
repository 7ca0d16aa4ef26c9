"""Pruning of shared weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_ops.models import MultiTaskModel, SharedBottom, prune_shared

mse = nn.functional.mse_loss


def model() -> SharedBottom:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    heads = {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)}
    return SharedBottom(backbone, heads, {"a": mse, "b": mse})


BATCH = {"input": torch.randn(6, 4), "a": torch.zeros(6, 1), "b": torch.ones(6, 1)}


def quality(net: nn.Module) -> dict[str, float]:
    assert isinstance(net, MultiTaskModel)
    return {
        task: float(loss.detach()) for task, loss in net.losses(BATCH).items() if loss is not None
    }


def test_the_smallest_shared_weights_go_by_one_threshold() -> None:
    net, twin = model(), model()
    before = quality(net)
    rows = prune_shared(net, 0.25, BATCH, quality)
    old = torch.cat([twin.backbone[k].weight.flatten() for k in (0, 2)])
    new = torch.cat([net.backbone[k].weight.flatten() for k in (0, 2)])
    gone = new == 0
    assert int(gone.sum()) == 24  # a quarter of 32 + 64
    assert old[gone].abs().max() <= old[~gone].abs().min()
    torch.testing.assert_close(new[~gone], old[~gone], rtol=0, atol=0)
    for kept in ("backbone.1.weight", "backbone.0.bias", "heads.a.weight"):
        torch.testing.assert_close(net.get_parameter(kept), twin.get_parameter(kept))
    assert [row.task for row in rows] == ["a", "b"]
    assert {row.task: row.before for row in rows} == before
    assert {row.task: row.after for row in rows} == quality(net) != before
    assert set(net.state_dict()) == set(twin.state_dict())


def test_bad_arguments() -> None:
    for amount in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"`amount = {amount}`"):
            prune_shared(model(), amount, BATCH, quality)
    net = SharedBottom(
        nn.Identity(), {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}, {"a": mse, "b": mse}
    )
    with pytest.raises(ValueError, match="should share weights between tasks"):
        prune_shared(net, 0.5, BATCH, quality)

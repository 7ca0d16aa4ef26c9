"""Pruning of shared weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_ops.models import (
    RNN,
    MultiTaskModel,
    Sequences,
    SharedBottom,
    Transformer,
    prune_shared,
)

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


def pruned(backbone: nn.Module, values: object) -> nn.Module:
    """The backbone, half of whose shared weights are gone."""
    net = SharedBottom(backbone, {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)}, {"a": mse, "b": mse})
    prune_shared(net, 0.5, {**BATCH, "input": values}, lambda _: {"a": 0.0, "b": 0.0})
    return backbone


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrences_are_pruned(cell: str) -> None:
    lengths = torch.tensor([3, 1, 2, 3, 3, 1])
    values = Sequences(torch.randn(6, 3, 4), lengths)
    net = pruned(RNN(4, 8, cell=cell), values)
    matrices = [param for param in net.parameters() if param.dim() > 1]
    gone = sum(int((param == 0).sum()) for param in matrices)
    assert gone == sum(param.numel() for param in matrices) // 2
    # What runs is what was pruned, not what torch kept of it.
    twin = RNN(4, 8, cell=cell)
    twin.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(values), twin(values))


def test_attention_is_pruned_and_positions_are_not() -> None:
    net = Transformer(10, 8, heads=2, layers=1)
    nn.init.constant_(net.places, 1e-6)
    pruned(net, Sequences(torch.ones(6, 3).long(), torch.tensor([3, 1, 2, 3, 3, 1])))
    assert bool((net.layers.layers[0].self_attn.in_proj_weight == 0).any())
    assert bool((net.places != 0).all())


def test_a_tied_weight_counts_once_and_stays_tied() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    net = pruned(nn.Sequential(nn.Linear(4, 8), first, second), BATCH["input"])
    assert first.weight is second.weight
    assert int((first.weight == 0).sum()) + int((net[0].weight == 0).sum()) == (32 + 64) // 2


def test_statistics_and_modes_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8).eval())
    pruned(net, BATCH["input"])
    assert int(net[1].num_batches_tracked) == 0
    assert [each.training for each in net] == [True, True, False]


def test_bad_arguments() -> None:
    for amount in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"`amount = {amount}`"):
            prune_shared(model(), amount, BATCH, quality)
    net = SharedBottom(
        nn.Identity(), {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}, {"a": mse, "b": mse}
    )
    with pytest.raises(ValueError, match="should share weights between tasks"):
        prune_shared(net, 0.5, BATCH, quality)

"""Networks of distances: turned, moved and renumbered molecules are the same; pairs are those of one molecule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mtl_ops.examples.molecules import EdgeNetwork
from mtl_ops.models import DistanceNet, Embedded, RecordEmbedding, SharedBottom


def _molecules() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.tensor([[2, 1, 1, 3, 0], [4, 5, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.uint8)
    return atoms, 2 * torch.rand(3, 5, 3, generator=generator)


def _edge_network() -> nn.Module:
    pytest.importorskip("torch_geometric")
    return EdgeNetwork(8)


@pytest.mark.parametrize("make", [lambda: DistanceNet(5, 8), _edge_network])
def test_only_elements_and_distances_matter(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().double()
    atoms, places = _molecules()
    places = places.double()
    out = network((atoms, places))
    assert out.shape == (3, 8)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(network((atoms, places @ turn + 3.0)), out)
    order = torch.tensor([3, 0, 2, 1, 4])
    torch.testing.assert_close(network((atoms[:, order], places[:, order])), out)
    alone = network((atoms[1:2], places[1:2]))
    torch.testing.assert_close(alone, out[1:2])
    longer = places.clone()
    longer[0, 0] += 1.0
    moved = network((atoms, longer))
    assert not torch.allclose(moved[0], out[0])
    torch.testing.assert_close(moved[1:], out[1:])
    assert not torch.allclose(network((atoms.clamp(max=3), places))[1], out[1])


@pytest.mark.parametrize("name", ["kinds", "width", "layers", "gaussians", "reach"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` should be positive\. Found `{name} = 0`"):
        DistanceNet(**{"kinds": 5, name: 0})


def test_it_runs_in_bfloat16() -> None:
    network = DistanceNet(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(_molecules())
    assert out.isfinite().all()
    out.float().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_columns_have_rows_of_their_own_in_one_table() -> None:
    embedding = RecordEmbedding([2, 3], numbers=1, width=1)
    with torch.no_grad():
        embedding.table.weight.copy_(torch.arange(5.0).unsqueeze(1))
    rows = embedding(
        (torch.tensor([[1, 0], [0, 2]], dtype=torch.int32), torch.tensor([[9.0], [8.0]]))
    )
    assert rows.tolist() == [[1, 2, 9], [0, 4, 8]]
    with pytest.raises(ValueError, match=r"Found `sizes = \[2, 0\]`"):
        RecordEmbedding([2, 0], 1)
    known, others = torch.tensor([[0, 0]]), torch.tensor([[2, 7]])  # of a column that has fewer
    assert torch.equal(embedding((others, torch.ones(1, 1))), embedding((known, torch.ones(1, 1))))


def test_the_embedding_is_shared_and_the_heads_are_the_models() -> None:
    heads = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}
    criteria = dict.fromkeys(heads, nn.functional.mse_loss)
    model = Embedded(RecordEmbedding([5], 1, 2), SharedBottom(nn.Linear(3, 4), heads, criteria))
    batch = {"input": (torch.tensor([[3]]), torch.ones(1, 1)), "a": torch.zeros(1, 1), "b": None}
    losses = model.losses(batch)
    assert losses["b"] is None
    assert losses["a"] is not None
    losses["a"].backward()
    assert model.embedding.table.weight.grad is not None
    assert len(list(model.parameters())) == 1 + 2 + 4

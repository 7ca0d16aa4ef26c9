"""Encoders: shapes, what they must not see, and their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtl_ops.models import (
    GCN,
    RNN,
    GraphBatch,
    Sequences,
    Transformer,
    cnn,
    normalised_adjacency,
    resnet18,
)


def test_stages_of_a_small_network() -> None:
    x, shapes = torch.zeros(2, 3, 16, 16), []
    for stage in cnn(3, (4, 8, 6)):
        x = stage(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(2, 4, 16, 16), (2, 8, 8, 8), (2, 6, 4, 4)]
    with pytest.raises(ValueError, match="`widths` should hold at least one"):
        cnn(3, ())


def test_a_residual_network_of_full_width_is_resnet18() -> None:
    stages = resnet18()
    # The known number without the classifier of 1000 classes, 513,000.
    assert sum(p.numel() for p in stages.parameters()) == 11_689_512 - 513_000
    assert len(stages) == 5
    assert resnet18(1, 4)(torch.zeros(2, 1, 64, 64)).shape == (2, 32, 2, 2)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrence_ends_where_the_sequence_does(
    cell: str, bidirectional: bool, layers: int
) -> None:
    torch.manual_seed(0)
    rnn = RNN(3, 8, cell=cell, bidirectional=bidirectional, layers=layers)  # type: ignore[arg-type]
    values, lengths = torch.randn(4, 6, 3), torch.tensor([6, 2, 1, 5])
    together = rnn(Sequences(values, lengths))
    assert together.shape == (4, 8)
    for k, length in enumerate(lengths.tolist()):
        alone = rnn(Sequences(values[k : k + 1, :length], lengths[k : k + 1]))
        torch.testing.assert_close(together[k : k + 1], alone)


def test_a_recurrence_is_refused() -> None:
    with pytest.raises(ValueError, match="`cell` should be 'gru' or 'lstm'"):
        RNN(3, cell="rnn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`width` should be even"):
        RNN(3, 7, bidirectional=True)


def test_attention_does_not_see_what_comes_after_the_end() -> None:
    torch.manual_seed(0)
    model = Transformer(20, 8, heads=2).eval()
    numbers, lengths = torch.randint(20, (3, 7)), torch.tensor([7, 2, 4])
    other = numbers.clone()
    other[1, 2:], other[2, 4:] = 0, 19
    assert not torch.equal(numbers, other)
    torch.testing.assert_close(model(Sequences(numbers, lengths)), model(Sequences(other, lengths)))
    alone = model(Sequences(numbers[1:2, :2], lengths[1:2]))
    torch.testing.assert_close(model(Sequences(numbers, lengths))[1:2], alone)


def graphs() -> tuple[Tensor, Tensor]:
    """Edges of a path of three nodes, a pair, and a node alone; the graph of each node."""
    return torch.tensor([[0, 1, 3], [1, 2, 4]]), torch.tensor([0, 0, 0, 1, 1, 2])


def test_a_graph_convolution_is_its_formula() -> None:
    torch.manual_seed(0)
    edges, graph = graphs()
    adjacency = torch.eye(6)
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1.0
    scale = adjacency.sum(dim=1).rsqrt()
    dense = scale[:, None] * adjacency * scale
    sparse = normalised_adjacency(edges, 6)
    torch.testing.assert_close(sparse.to_dense(), dense)
    model, nodes = GCN(2, 5, layers=2), torch.randn(6, 2)
    states = nodes
    for layer in model.layers:
        states = torch.relu(dense @ states @ layer.weight.T + dense @ layer.bias.expand(6, -1))
    means = torch.stack([states[:3].mean(0), states[3:5].mean(0), states[5], 0 * states[0]])
    torch.testing.assert_close(model(GraphBatch(nodes, sparse, graph, 4)), means)


def test_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="nodes from 0 to 2"):
        normalised_adjacency(torch.tensor([[0], [3]]), 3)
    with pytest.raises(ValueError, match="a node joined to itself"):
        normalised_adjacency(torch.tensor([[1], [1]]), 3)


def test_words_beyond_the_last_position_are_refused() -> None:
    net = Transformer(10, 8, heads=2, longest=2)
    with pytest.raises(ValueError, match=r"at most `longest = 2` words long. Found 3"):
        net(Sequences(torch.ones(1, 3).long(), torch.tensor([3])))

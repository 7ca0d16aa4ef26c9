"""A graph convolutional network on sparse adjacency, in plain PyTorch."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["GCN", "GraphBatch", "normalised_adjacency"]


class GraphBatch(NamedTuple):
    """Several graphs as one, without edges between them.

    Attributes:
        nodes: ``(N, D)`` float.
        adjacency: ``(N, N)`` sparse, see :func:`normalised_adjacency`.
        graph: ``(N,)`` int64, which of the G graphs each node is of.
        graphs: G.
    """

    nodes: Tensor
    adjacency: Tensor
    graph: Tensor
    graphs: int


def normalised_adjacency(edges: Tensor, count: int) -> Tensor:
    """``D^(-1/2) (A + I) D^(-1/2)``, sparse ``(N, N)``, D the row sums of A + I.

    Args:
        edges: ``(2, E)`` int64, pairs of nodes; each pair once, and it counts in both directions.
        count: N.

    Raises:
        ValueError: If an edge names a node that is not there, or joins a node to itself.

    Example:
        >>> import torch
        >>> normalised_adjacency(torch.tensor([[0], [1]]), 3).to_dense()
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= count):
        raise ValueError(
            f"Parameter `edges` should name nodes from 0 to {count - 1}. "
            f"Found {int(edges.min())} to {int(edges.max())}."
        )
    if bool((edges[0] == edges[1]).any()):
        raise ValueError(
            "Parameter `edges` should join different nodes. Found a node joined to itself."
        )
    own = torch.arange(count, device=edges.device).expand(2, -1)
    both = torch.cat([edges, edges.flip(0), own], dim=1)
    scale = torch.bincount(both[0], minlength=count).float().rsqrt()
    values = scale[both[0]] * scale[both[1]]
    return torch.sparse_coo_tensor(both, values, (count, count), check_invariants=False).coalesce()


class GCN(nn.Module):
    """``H_(l+1) = relu(Â H_l W_l)``, then the mean over the nodes: :class:`GraphBatch` to ``(G, width)``.

    Args:
        inputs: D.
        width: Of all layers.
        layers: How many.

    Thomas N. Kipf, Max Welling, "Semi-Supervised Classification with Graph Convolutional Networks",
    ICLR 2017.

    Example:
        >>> import torch
        >>> adjacency = normalised_adjacency(torch.tensor([[0, 2], [1, 3]]), 4)
        >>> pairs = GraphBatch(torch.ones(4, 2), adjacency, torch.tensor([0, 0, 1, 1]), 2)
        >>> GCN(2, 8)(pairs).shape
        torch.Size([2, 8])
    """

    def __init__(self, inputs: int, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        sizes = [inputs] + [width] * layers
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in itertools.pairwise(sizes)
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """Means over the nodes of each graph; 0 for a graph without nodes."""
        states = batch.nodes
        for layer in self.layers:
            states = torch.relu(torch.sparse.mm(batch.adjacency, layer(states)))
        sums = states.new_zeros(batch.graphs, states.shape[1]).index_add(0, batch.graph, states)
        sizes = torch.bincount(batch.graph, minlength=batch.graphs).clamp(min=1)
        return sums / sizes.unsqueeze(1)

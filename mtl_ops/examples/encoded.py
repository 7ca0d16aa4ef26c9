"""The reference encoders of text and graphs, as other models of two examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..data import Task
from ..data.molecules import Graphs
from ..models import (
    GCN,
    RNN,
    GraphBatch,
    MultiTaskModel,
    Sequences,
    SharedBackbone,
    SharedBottom,
    Transformer,
    normalised_adjacency,
)
from .layers import image_backbone, linear_heads

__all__ = ["SparseGraphs", "Words", "graph_model", "image_text_model"]


class Words(nn.Module):
    """Numbers of words ``(B, L)``, 0 after the end, to ``(B, width)`` by a recurrence or by attention.

    Example:
        >>> import torch
        >>> Words("rnn", 50, 8)(torch.tensor([[3, 7, 0], [9, 0, 0]])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self, kind: Literal["rnn", "transformer"], vocabulary: int, width: int = 64
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width) if kind == "rnn" else None
        self.encoder: nn.Module = (
            RNN(width, width, bidirectional=True)
            if kind == "rnn"
            else Transformer(vocabulary, width)
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """Features of the texts."""
        lengths = (numbers != 0).sum(dim=1).clamp(min=1)
        values = numbers if self.embedding is None else self.embedding(numbers)
        features: Tensor = self.encoder(Sequences(values, lengths))
        return features


class SparseGraphs(nn.Module):
    """A :class:`GCN` on :class:`Graphs`, without the orders of the bonds.

    Example:
        >>> from mtl_ops.data.molecules import molecules
        >>> SparseGraphs(4, 8)(molecules(5, 2).train["input"]).shape
        torch.Size([5, 8])
    """

    def __init__(self, kinds: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.gcn = GCN(kinds, width, layers)

    def forward(self, graphs: Graphs) -> Tensor:
        """Features of the graphs."""
        there = graphs.atoms.sum(dim=-1) > 0
        number = there.flatten().cumsum(0).view_as(there) - 1
        graph, first, second = graphs.bonds.triu(diagonal=1).nonzero().unbind(dim=1)
        edges = torch.stack([number[graph, first], number[graph, second]])
        nodes = graphs.atoms[there]
        batch = GraphBatch(
            nodes,
            normalised_adjacency(edges, len(nodes)),
            there.nonzero()[:, 0],
            len(there),
        )
        features: Tensor = self.gcn(batch)
        return features


def graph_model(tasks: Mapping[str, Task], kinds: int) -> MultiTaskModel:
    """The reference graph network with a head for each property."""
    return SharedBottom(SparseGraphs(kinds), *linear_heads(tasks, 64))


def image_text_model(
    kind: Literal["rnn", "transformer"], tasks: Mapping[str, Task], side: int, vocabulary: int
) -> MultiTaskModel:
    """An encoder for each modality and a layer that both share.

    Args:
        kind: Of the encoder of texts.
        tasks: Of ``"image"`` and ``"text"``.
        side: Of the images.
        vocabulary: How many words there are.
    """
    encoders: dict[str, nn.Module] = {}
    if "image" in tasks:
        encoders["image"] = image_backbone(side)
    if "text" in tasks:
        encoders["text"] = Words(kind, vocabulary)
    return SharedBackbone(
        [encoders, nn.Sequential(nn.Linear(64, 64), nn.ReLU())], *linear_heads(tasks, 64)
    )

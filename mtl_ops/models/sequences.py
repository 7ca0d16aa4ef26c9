"""Encoders of sequences: recurrent, and by attention."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

__all__ = ["RNN", "Sequences", "Transformer"]


class Sequences(NamedTuple):
    """Sequences of different lengths.

    Attributes:
        values: ``(B, L, D)`` float or ``(B, L)`` int64, whatever after the end.
        lengths: ``(B,)`` int64, at least 1.
    """

    values: Tensor
    lengths: Tensor


class RNN(nn.Module):
    """A recurrence over packed sequences, :class:`Sequences` to its last states ``(B, width)``.

    Args:
        inputs: D.
        width: Of the state; even if ``bidirectional``, where half of it reads backwards.
        cell: ``"gru"`` (Cho et al., EMNLP 2014) or ``"lstm"`` (Hochreiter and Schmidhuber, Neural
            Computation 1997).
        layers: How many on top of each other.
        bidirectional: Whether half of the state reads from the end.

    Raises:
        ValueError: If the cell is unknown, or the width odd with two directions.

    Example:
        >>> import torch
        >>> batch = Sequences(torch.zeros(3, 5, 2), torch.tensor([5, 1, 3]))
        >>> RNN(2, 8)(batch).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        inputs: int,
        width: int = 64,
        *,
        cell: Literal["gru", "lstm"] = "gru",
        layers: int = 1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        kinds: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
        if cell not in kinds:
            raise ValueError(
                f"Parameter `cell` should be 'gru' or 'lstm'. Found `cell = {cell!r}`."
            )
        if bidirectional and width % 2:
            raise ValueError(
                f"Parameter `width` should be even with two directions. Found `width = {width}`."
            )
        size = width // 2 if bidirectional else width
        self.directions = 2 if bidirectional else 1
        self.recurrence = kinds[cell](
            inputs, size, layers, batch_first=True, bidirectional=bidirectional
        )

    def forward(self, batch: Sequences) -> Tensor:
        """The state after the last element of each sequence (and before the first, backwards)."""
        values, lengths = batch
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = self.recurrence(packed)[1]
        last = states[0] if isinstance(states, tuple) else states
        state: Tensor = last[-self.directions :].transpose(0, 1).flatten(1)
        return state


class Transformer(nn.Module):
    """Attention over the words of sequences, :class:`Sequences` of numbers to ``(B, width)``.

    The mean of the last layer over the words of each sequence; what is after its end is not seen.

    Args:
        vocabulary: How many words there are.
        width: Of embeddings and layers.
        heads: Of attention.
        layers: How many.
        longest: The largest L, for learned positions.

    Raises:
        ValueError: If a batch is longer.

    Ashish Vaswani et al., "Attention Is All You Need", NeurIPS 2017.

    Example:
        >>> import torch
        >>> batch = Sequences(torch.ones(3, 5).long(), torch.tensor([5, 1, 3]))
        >>> Transformer(10, 8, heads=2)(batch).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        *,
        heads: int = 4,
        layers: int = 2,
        longest: int = 256,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(longest, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, batch: Sequences) -> Tensor:
        """Means over the words."""
        numbers, lengths = batch
        if numbers.shape[1] > len(self.places):
            raise ValueError(
                f"Parameter `batch` should be at most `longest = {len(self.places)}` words long. "
                f"Found {numbers.shape[1]}."
            )
        there = torch.arange(numbers.shape[1], device=numbers.device) < lengths.unsqueeze(1)
        states = self.words(numbers) + self.places[: numbers.shape[1]]
        states = self.layers(states, src_key_padding_mask=~there)
        kept = torch.where(there.unsqueeze(2), states, 0.0)
        return kept.sum(dim=1) / lengths.unsqueeze(1)

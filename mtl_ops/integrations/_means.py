"""Means of losses by task, summed where they are and read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Means"]


class Means:
    """Weighted means by name; a loss that is NaN, or has no name, is that of an absent task."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}  # (2,) float64: of losses, and of weights

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, names: Sequence[str], losses: Tensor, weight: float = 1.0) -> None:
        """Adds ``(T,)`` losses, without a wait for their device."""
        part = ~losses.isnan()
        both = torch.stack([torch.where(part, losses, 0.0), part.to(losses)]) * weight
        for name, pair in zip(names, both.unbind(1), strict=True):
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def sums(self) -> dict[str, list[float]]:
        """The sum of the losses and of the weights of each; waits for the device."""
        return {name: pair.tolist() for name, pair in self._sums.items()}

    def merge(self, others: Sequence[Mapping[str, list[float]]]) -> None:
        """Becomes what several have together."""
        self.clear()
        for other in others:
            for name, (total, weight) in other.items():
                pair = torch.tensor([total, weight], dtype=torch.float64)
                self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def take(self) -> dict[str, float]:
        """The means of those that were ever there, and starts afresh; waits for the device once."""
        names, pairs = list(self._sums), list(self._sums.values())
        self.clear()
        rows = torch.stack(pairs).tolist() if pairs else []
        return {name: a / b for name, (a, b) in zip(names, rows, strict=True) if b > 0}

    def clear(self) -> None:
        """Forgets all."""
        self._sums.clear()

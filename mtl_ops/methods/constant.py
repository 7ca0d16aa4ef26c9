"""Constant weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._base import LossMethod
from ._checks import PerTask
from ._registry import register

__all__ = ["Constant"]


@register("constant")
class Constant(LossMethod):
    """Fixed weights of the tasks: a weighted sum of the losses, and one backward for all.

    Args:
        weights: w, T finite numbers.

    Degenerate cases: a task whose loss is not finite has the weight 0; the others keep theirs.

    Raises:
        ValueError: If ``weights`` is empty or not finite, or has not T numbers.
        TypeError: If ``weights`` is not a sequence of numbers.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.Constant(weights=[1.0, 0.5])
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), method)
        tensor([1., 1.])
    """

    uses_losses = False

    def __init__(self, *, weights: Sequence[float] | Tensor) -> None:
        self._weights = PerTask("weights", weights)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64; without ``gram`` and ``losses`` as they were given."""
        if losses is not None:
            constants = self._weights.on(losses.device, losses.shape[-1])
            return torch.where(losses.detach().isfinite(), constants, 0.0)
        if gram is not None:
            return self._weights.on(gram.device, gram.shape[-1])
        return self._weights.on(torch.device("cpu"), len(self._weights))

    def numbers(self, losses: Sequence[float]) -> list[float]:
        found: list[float] = self._weights.on(torch.device("cpu"), len(losses)).tolist()
        return found

    def __repr__(self) -> str:
        return f"Constant(weights={self._weights!r})"

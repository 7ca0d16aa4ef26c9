"""The user's function, called again and again from where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..gradients.tasks import Losses, read_losses
from .saved import Start

__all__ = ["Evaluate", "Evaluated"]


@dataclass(frozen=True)
class Evaluated:
    """What the function returned."""

    losses: Losses
    features: Any = None

    @property
    def tensors(self) -> list[Tensor]:
        """The losses that are there."""
        losses = self.losses.values() if isinstance(self.losses, Mapping) else self.losses
        return [loss for loss in losses if isinstance(loss, Tensor)]


class Evaluate:
    """Calls the function.

    Args:
        function: Returns the losses.
        pair: Whether it returns features, too.
        start: Where it was.
        device: Of the parameters.

    Raises:
        TypeError: If the function returns something else.
        ValueError: If its losses are not those of tasks, or not the same ones when it is called again.
    """

    def __init__(
        self, function: Callable[[], Any], pair: bool, start: Start, device: torch.device
    ) -> None:
        self._function, self._pair, self._start, self.device = function, pair, start, device
        first, second = self._totals(), self._totals()
        if first.shape != second.shape or not torch.allclose(first, second, 1e-3, equal_nan=True):
            raise ValueError(
                "Parameter `losses_fn` should return the losses of the same batch every time. "
                f"Found {first.tolist()}, and then {second.tolist()}, from the same random state."
            )
        self.again()

    def __call__(self) -> Evaluated:
        """Evaluates the losses."""
        found = self._function()
        if not self._pair:
            return Evaluated(found)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "Parameter `losses_fn` should return a pair of losses and features, with `features = True`. "
                f"Found {type(found).__name__}."
            )
        return Evaluated(*found)

    def again(self) -> None:
        """The next call draws what the first did, from the same buffers."""
        self._start.again()

    def _totals(self) -> Tensor:
        self.again()
        found = self()
        read_losses(found.losses, None)  # says what is wrong with them
        return torch.stack([loss.detach().reshape(()) for loss in found.tensors])

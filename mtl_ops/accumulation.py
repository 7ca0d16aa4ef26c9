"""Task gradients added up over micro-batches, to be merged once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Accumulated"]


class Accumulated:
    """Sums of ``T × P`` gradients and of T losses.

    It holds T gradients of the model's size, in the gradients' own dtypes.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor | None] = []
        self._losses: list[Tensor | None] = []
        self._owned = False

    def add(
        self, rows: Sequence[Tensor | None], losses: Sequence[Tensor | None]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Adds the gradients and losses of one more micro-batch, and returns the sums so far.

        A task that is absent from some micro-batches is the sum of the others.
        """
        detached = [None if loss is None else loss.detach() for loss in losses]
        if not self._rows:
            self._rows, self._losses = list(rows), detached
        else:
            self._add_rows(rows)
            self._losses = [
                b if a is None else a if b is None else a + b
                for a, b in zip(self._losses, detached, strict=True)
            ]
        return self._rows, self._losses

    def _add_rows(self, rows: Sequence[Tensor | None]) -> None:
        both = [
            (place, a, b)
            for place, (a, b) in enumerate(zip(self._rows, rows, strict=True))
            if a is not None and b is not None
        ]
        left, right = [a for _, a, _ in both], [b for _, _, b in both]
        if both and self._owned:
            torch._foreach_add_(left, right)
        elif both:
            # What autograd returned may be one tensor for two parameters: not to be written to.
            for (place, _, _), total in zip(both, torch._foreach_add(left, right), strict=True):
                self._rows[place] = total
        for place, row in enumerate(rows):
            if self._rows[place] is None and row is not None:
                self._rows[place] = row.clone()
        self._owned = all(a is None or b is not None for a, b in zip(self._rows, rows, strict=True))

"""Task gradients added up over micro-batches, to be merged once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..ops.capture import capturing
from .sparse import summed

__all__ = ["Accumulated"]


class Accumulated:
    """Sums of ``T × P`` gradients and of T losses.

    It holds T gradients of the model's size, in the dtype that they are stored in.
    """

    def __init__(self) -> None:
        #: Whether they began in a CUDA graph that is being captured.
        self.captured = capturing()
        self._rows: list[list[Tensor | None]] = []
        self._losses: list[Tensor | None] = []
        self._owned: set[int] = set()
        self._summed: set[int] = set()  # losses that are sums of our own

    def add(
        self, gradients: Iterable[list[Tensor | None]], losses: Sequence[Tensor | None]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Adds the gradients and losses of one more micro-batch, and returns the sums so far.

        A task that is absent from some micro-batches is the sum of the others.

        Args:
            gradients: P gradients of each task in turn; those of a task are freed before the next ones
                are asked for.
            losses: T losses.

        Returns:
            ``T × P`` gradients, row-major, and T losses.
        """
        detached = [None if loss is None else loss.detach() for loss in losses]
        if not self._losses:
            self._rows, self._losses = list(gradients), detached
        else:
            # Not a loop over the gradients: its variable would keep those of one task during the next backward.
            both = map(self._add_rows, range(len(losses)), gradients)
            self._owned.update(t for t, owned in enumerate(both) if owned)
            self._add_losses(detached)
        return [row for rows in self._rows for row in rows], self._losses

    def _add_losses(self, losses: Sequence[Tensor | None]) -> None:
        """Adds losses, in place where the sum is not the user's tensor."""
        for task, (a, b) in enumerate(zip(self._losses, losses, strict=True)):
            same = a is not None and b is not None and a.dtype == b.dtype
            if a is not None and b is not None and same and task in self._summed:
                a.add_(b)
            elif b is not None:
                self._losses[task] = b if a is None else a + b
                if a is not None:
                    self._summed.add(task)

    def _add_rows(self, task: int, rows: Sequence[Tensor | None]) -> bool:
        """Adds the gradients of a task; whether its sums are all tensors of our own."""
        sums = self._rows[task]
        both = [
            (place, a, b)
            for place, (a, b) in enumerate(zip(sums, rows, strict=True))
            if a is not None and b is not None
        ]
        left, right = [a for _, a, _ in both], [b for _, _, b in both]
        dense = all(tensor.layout == torch.strided for tensor in (*left, *right))
        if both and dense and task in self._owned:
            torch._foreach_add_(left, right)
        else:
            # What autograd returned may be one tensor for two parameters: not to be written to.
            for place, a, b in both:
                sums[place] = summed(a, b)
        owned = all(a is None or b is not None for a, b in zip(sums, rows, strict=True))
        for place, row in enumerate(rows):
            if sums[place] is None and row is not None:
                sums[place] = row.clone()
        return owned or task in self._owned

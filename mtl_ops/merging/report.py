"""What a step measured and decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import ops

__all__ = ["Report"]


@dataclass(eq=False)
class Report:
    """What the last backward measured and decided, as tensors on the gradients' device.

    Nothing is copied to the host, and what is derived is computed when it is read, so a report that
    nobody reads costs nothing. What was not measured is ``None``: a method that needs only losses
    takes one backward, and there is no gradient of a single task then.

    S segments are what the method solved one by one: 1 with ``granularity="model"``; T tasks.

    Attributes:
        names: The tasks' names, or ``None`` if the losses came without.
        weights: ``(S, T)`` float64, the factor with which each task's gradient entered the merged
            gradient (before the clip of the whole); 0 for a task that took no part. Where the tasks
            share nothing, as a single one, S is 1, and it is each task's own factor. ``None`` for
            methods that merge coordinate by coordinate.
        clip_scale: 0-d float64, the factor by which the merged gradient was clipped; ``None``
            without ``max_norm``.
        times_skipped: ``(T,)`` int64, in how many steps so far the task's gradient was not finite.
    """

    names: tuple[str, ...] | None = None
    weights: Tensor | None = None
    clip_scale: Tensor | None = None
    times_skipped: Tensor | None = None
    _gram: Tensor | None = field(default=None, repr=False)
    _scale: Tensor | None = field(default=None, repr=False)
    _shared: int = field(default=0, repr=False)
    _part: tuple[bool, ...] = field(default=(), repr=False)
    _joint: Tensor | None = field(default=None, repr=False)
    _losses: Sequence[Tensor | None] | Tensor = field(default=(), repr=False)

    @property
    def gram(self) -> Tensor | None:
        """``(S, T, T)`` float64, inner products of the tasks' gradients of the shared parameters."""
        return None if self._gram is None else self._gram[: self._shared]

    @property
    def norms(self) -> Tensor | None:
        """``(T,)`` float64, the norm of each task's whole gradient; what ``max_task_norm`` clips."""
        if self._gram is None:
            return None
        return self._gram.diagonal(dim1=1, dim2=2).sum(dim=0).sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """``(T, T)`` float64, cosines of the shared gradients; NaN where one is zero or absent."""
        gram = self.gram
        if gram is None or self._shared == 0:
            return None
        total = gram.sum(dim=0)
        norms = total.diagonal().sqrt()
        return (total / norms.outer(norms)).clamp(-1.0, 1.0)

    @property
    def losses(self) -> Tensor | None:
        """``(T,)`` float64; NaN for a task that was absent."""
        if isinstance(self._losses, Tensor):
            return self._losses.to(torch.float64, copy=True)
        present = [loss for loss in self._losses if loss is not None]
        if not present:
            return None
        absent = torch.full((), torch.nan, dtype=torch.float64, device=present[0].device)
        return torch.stack(
            [absent if loss is None else loss.reshape(()).double() for loss in self._losses]
        )

    def lost(self, any_task: bool) -> Tensor | None:
        """0-d bool: whether the gradient of any task, or else of every task, is not finite, or a weight is not.

        ``None`` if no gradient was measured. A method has no finite answer where, say, a loss that it divides by is 0.
        """
        if self._joint is not None:
            return ~self._joint.sum().isfinite()
        skipped = self.skipped
        if skipped is None:
            return None
        tasks = len(skipped)
        present = sum(any(self._part[t::tasks]) for t in range(tasks))
        lost = skipped.any() if any_task else skipped.sum() == present
        return lost if self.weights is None else lost | ~self.weights.sum().isfinite()

    @property
    def skipped(self) -> Tensor | None:
        """``(T,)`` bool, tasks whose gradient was not finite."""
        if self._gram is None:
            return None
        # By the operator that leaves tasks out, which takes the flags without a copy to the device.
        tasks, device = self._gram.shape[1], self._gram.device
        counts = torch.zeros(tasks, dtype=torch.int64, device=device)
        ops.task_scales(self._gram, [float(part) for part in self._part], skipped=counts)
        return counts.bool()

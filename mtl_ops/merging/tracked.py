"""How a method with a memory of J's size sees the gradients, before the others are weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..gradients.layout import Layout
from ..methods import TrackingMethod
from .call import Call

__all__ = ["Tracked", "show"]


@dataclass
class Tracked:
    """What is weighed and merged.

    Attributes:
        rows: ``T × P`` gradients.
        gram: ``(S, T, T)`` float64, theirs; of true gradients, without the scaler's factor. ``None``
            if it was not measured.
        scale: ``(S, T)`` float64, their factors.
        clip_value: Of their elements.
        unit: ``(S, 1)`` float64, the scaler's factor where the rows are without and the merged
            gradient has to be with it; ``None`` for 1.
    """

    rows: Sequence[Tensor | None]
    gram: Tensor | None
    scale: Tensor
    clip_value: float | None
    unit: Tensor | None = None

    def scaled(self, weights: Tensor, clipped: bool) -> tuple[Tensor, Tensor | None]:
        """Weights of the rows, and, for clipping, the Gram matrix that gives the true norm."""
        gram = self.gram if clipped else None
        if self.unit is None:
            return weights, gram
        return self.unit * weights, None if gram is None else gram / self.unit.unsqueeze(2).square()


def show(
    method: TrackingMethod,
    seen: Tracked,
    call: Call,
    layout: Layout,
    alone: bool,
) -> Tracked:
    """Shows the method the gradients of the shared parameters, and returns what it makes of them.

    It sees them as they would be merged: clipped, times the task's weight, and without the tasks that
    take no part. If a gradient that takes part is not finite, its memory stays as it is and all
    that is merged becomes NaN.

    Raises:
        ValueError: If each of several processes has only a part of the gradients.
    """
    if not alone:
        raise ValueError(
            f"Method {method.name!r} should be used in a single process, because it remembers "
            "gradients. Found several processes."
        )
    assert seen.gram is not None
    grad_scale = call.scale
    tasks, shared = seen.scale.shape[1], layout.shared
    count = len(seen.rows) // tasks
    rows = list(seen.rows)
    if seen.clip_value is not None:
        limit = seen.clip_value
        rows = [None if row is None else row.clamp(-limit, limit) for row in rows]
    home = layout.homes(count)
    picked = [p for p in range(count) if home[p] < shared]
    places = picked if layout.kept is None else [layout.kept[p] for p in picked]
    segments = [home[p] for p in picked]
    part = seen.scale[:shared] != 0
    squares = seen.gram[:shared].diagonal(dim1=1, dim2=2)
    usable = torch.where(part, squares, 0.0).isfinite().all()
    factors = torch.where(usable, seen.scale[:shared].amax(dim=0), 0.0)
    if grad_scale is not None:
        factors = factors / grad_scale
    shown = [rows[t * count + p] for t in range(tasks) for p in picked]
    tracked = method.track(shown, factors, call.shown_losses, places, segments)
    if tracked is None:
        gram = torch.where(usable, seen.gram, torch.nan)
        return Tracked(rows, gram, seen.scale, None)
    for k, row in enumerate(tracked):
        t, place = divmod(k, len(picked))
        rows[t * count + picked[place]] = row
    gram = torch.where(usable, ops.gram(tracked, tasks, segments), torch.nan)
    unit = None
    if grad_scale is not None:
        ones = torch.ones_like(seen.scale[:, :1])
        unit = torch.cat([ones[:shared] * grad_scale, ones[shared:]])
    return Tracked(
        rows,
        torch.cat([gram, seen.gram[shared:]]),
        torch.cat([part.double(), seen.scale[shared:]]),
        None,
        unit,
    )

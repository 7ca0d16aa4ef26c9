"""Clipping the elements of gradients that a ``GradScaler`` has scaled: the threshold is scaled with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .call import Call

__all__ = ["clip_elements", "with_scaled_threshold"]


def with_scaled_threshold(call: Call) -> tuple[Call, Tensor | None]:
    """The call with a threshold on the elements as they are, scaled.

    On the CPU the kernels clip by the scaled number. On other devices it is a number that only the device
    knows: there the threshold comes as a 0-d tensor for :func:`clip_elements`, and nobody waits.
    """
    clip_value, scale = call.rules.clip_value, call.scale
    if clip_value is None or scale is None:
        return call, None
    on_cpu = scale.device.type == "cpu"
    known = clip_value * scale.item() if on_cpu else None
    scaled = replace(call, rules=replace(call.rules, clip_value=known))
    return scaled, None if on_cpu else clip_value * scale


def clip_elements(rows: Sequence[Tensor | None], limit: Tensor | None) -> Sequence[Tensor | None]:
    """The gradients with elements in ``[-limit, limit]``, by a pass of its own; as they are for ``None``."""
    if limit is None:
        return rows
    return [None if row is None else torch.clamp(row, -limit, limit) for row in rows]

"""The merging of methods that look at single coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..gradients.rows import columns
from ..methods import CoordinateMethod
from .layout import Layout
from .rules import Rules

__all__ = ["clip_merged", "merge_coordinates", "write_coordinates"]


def merge_coordinates(
    method: CoordinateMethod,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    gram: Tensor | None,
    scale: Tensor,
    layout: Layout,
    rules: Rules,
    given: Mapping[str, Any],
    accumulate: bool,
    total: Callable[[Tensor], Tensor] | None,
    measured: Sequence[bool] | None,
    first: Sequence[int] | None,
) -> Tensor | None:
    """As :func:`merge_rows` for a method that merges coordinate by coordinate.

    Its merged norm is known only afterwards, so clipping it costs one more pass over the result.
    """
    clipped = rules.max_norm is not None
    to = [torch.empty_like(tensor) for tensor in out] if clipped and accumulate else out
    square = write_coordinates(
        method, rows, to, scale, layout, rules.clip_value, given, accumulate and not clipped, first
    )
    if rules.max_norm is None:
        return None
    if total is not None:
        if measured is not None:
            home = layout.homes(len(out))
            mine = [
                tensor.double().square().sum()
                for tensor, segment, here in zip(to, home, measured, strict=True)
                if here and segment < layout.shared
            ]
            square = torch.stack([torch.zeros_like(square), *mine]).sum()
        square = total(square)
    assert gram is not None
    clip_scale = clip_merged(to, square, gram, scale, layout, rules.max_norm)
    if to is not out:
        torch._foreach_add_(list(out), list(to))
    return clip_scale


def write_coordinates(
    method: CoordinateMethod,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    scale: Tensor,
    layout: Layout,
    clip_value: float | None,
    given: Mapping[str, Any],
    accumulate: bool = False,
    first: Sequence[int] | None = None,
) -> Tensor:
    """Writes what such a method merges; arguments as of :func:`merge_rows`.

    Returns:
        The squared norm of the merged gradient of the shared parameters, 0-d float64.
    """
    home = layout.homes(len(out))
    shared = [p for p, segment in enumerate(home) if segment < layout.shared]
    own = [p for p, segment in enumerate(home) if segment >= layout.shared]
    square = torch.zeros((), dtype=torch.float64, device=scale.device)
    if shared:
        places = [home[p] for p in shared]
        if first is not None and method.draws:
            given = {**given, "first": [first[p] for p in shared]}
        square = square + method.merge_(
            [out[p] for p in shared],
            columns(rows, len(out), shared),
            scale,
            places if any(places) else (),
            clip_value,
            accumulate,
            **given,
        )
    if own:
        ops.merge_(
            [out[p] for p in own],
            columns(rows, len(out), own),
            scale[layout.shared :],
            clip_value=clip_value,
            accumulate=accumulate,
        )
    return square


def clip_merged(
    merged: Sequence[Tensor],
    square: Tensor | float,
    gram: Tensor,
    scale: Tensor,
    layout: Layout,
    max_norm: float,
) -> Tensor:
    """Clips what :func:`write_coordinates` has merged, of which ``square`` is known; returns the factor, 0-d."""
    factors = scale[layout.shared :]  # of the parameters that single tasks reach
    both = factors.unsqueeze(2) * factors.unsqueeze(1)
    pairs = torch.where(both != 0, gram[layout.shared :], 0.0)
    square = square + torch.einsum("si,sij,sj->", factors, pairs, factors)
    clip_scale = (max_norm / square.sqrt()).clamp(max=1.0)
    torch._foreach_mul_(list(merged), clip_scale)
    return clip_scale

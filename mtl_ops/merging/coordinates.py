"""The merging of methods that look at single coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..gradients.layout import Layout
from ..gradients.rows import columns
from ..methods import CoordinateMethod
from .call import Call, Part

__all__ = ["clip_merged", "merge_coordinates", "write_coordinates"]


def merge_coordinates(
    call: Call,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    gram: Tensor | None,
    scale: Tensor,
    layout: Layout,
    accumulate: bool,
    part: Part,
) -> Tensor | None:
    """As :func:`mtl_ops.merging.merge.merge_rows` for a method that merges coordinate by coordinate.

    Its merged norm is known only afterwards, so clipping it costs one more pass over the result.
    """
    max_norm = call.rules.max_norm
    if max_norm is None:
        write_coordinates(call, rows, out, scale, layout, accumulate, part.first)
        return None
    to = [torch.empty_like(tensor) for tensor in out] if accumulate else out
    square = write_coordinates(call, rows, to, scale, layout, first=part.first)
    if part.total is not None:
        if part.measured is not None:
            home = layout.homes(len(out))
            mine = [
                tensor.double().square().sum()
                for tensor, segment, here in zip(to, home, part.measured, strict=True)
                if here and segment < layout.shared
            ]
            square = torch.stack([torch.zeros_like(square), *mine]).sum()
        square = part.total(square)
    assert gram is not None
    clip_scale = clip_merged(to, square, gram, scale, layout, max_norm)
    if to is not out:
        torch._foreach_add_(list(out), list(to))
    return clip_scale


def write_coordinates(
    call: Call,
    rows: Sequence[Tensor | None],
    out: Sequence[Tensor],
    scale: Tensor,
    layout: Layout,
    accumulate: bool = False,
    first: Sequence[int] | None = None,
) -> Tensor:
    """Writes what a :class:`mtl_ops.methods.CoordinateMethod` merges.

    Returns:
        The squared norm of the merged gradient of the shared parameters, 0-d float64.
    """
    method, clip_value = call.method, call.rules.clip_value
    assert isinstance(method, CoordinateMethod)
    home = layout.homes(len(out))
    shared = [p for p, segment in enumerate(home) if segment < layout.shared]
    own = [p for p, segment in enumerate(home) if segment >= layout.shared]
    square = torch.zeros((), dtype=torch.float64, device=scale.device)
    if shared:
        places, given = [home[p] for p in shared], call.given
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

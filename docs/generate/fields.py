"""A method's picture: which way it steps on the problem with two tasks and two parameters.

The picture is SVG that stands in the page itself, so it takes the page's colours, light and dark.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import contourpy
import numpy as np
import torch
from torch import Tensor

from mtl_ops import methods
from mtl_ops.data import toy_losses
from mtl_ops.plots.cone import ROUNDING, conflicts
from mtl_ops.plots.merged import REFUSALS, merge_at
from mtl_ops.plots.toy import FIRST_SCALE, pareto_front, toy_gradients

__all__ = ["field"]

#: Both axes of the problem's plane, and the picture's side in pixels.
LOW, HIGH, SIDE = -11.0, 11.0, 440
#: Arrows along an axis, and an arrow's length in pixels.
ARROWS, LENGTH = 15, 22.0


def field(name: str) -> tuple[str, float] | None:
    """The picture as SVG, and the share of points where the step raises a loss.

    ``None`` for a method that needs more than gradients and losses, and for one that remembers or learns,
    whose first step does not show what it does.
    """
    points, losses, gradients = _problem()
    torch.manual_seed(0)
    try:
        method = methods.get(name)
    except REFUSALS:
        return None
    if method.state_names or method.tracks or method.learns:
        return None
    try:
        merged = merge_at(name, len(points))(gradients, losses)
    except REFUSALS:
        return None
    raises = conflicts(gradients, merged)
    longest = gradients.norm(dim=-1).amax(dim=-1)
    moves = merged.norm(dim=-1) >= ROUNDING * longest
    steps = -torch.nn.functional.normalize(merged, dim=-1)
    arrows = "".join(
        f'<path class="{kind}" d="{"".join(map(_arrow, points[chosen], steps[chosen]))}"/>'
        for kind, chosen in (("ally", moves & ~raises), ("foe", moves & raises))
        if chosen.any()
    )
    share = raises.double().mean().item()
    label = f"Direction of a step of {name} at {len(points)} points of the toy problem"
    return (
        f'<svg class="field" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}">'
        f"{_ground()}{arrows}</svg>",
        share,
    )


@functools.cache
def _problem() -> tuple[Tensor, Tensor, Tensor]:
    ticks = torch.linspace(-10.0, 10.0, ARROWS, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    return (points, *toy_gradients(points, FIRST_SCALE))


@functools.cache
def _ground() -> str:
    """Contours of the mean loss, and the Pareto front."""
    ticks = torch.linspace(LOW, HIGH, 80, dtype=torch.float64)
    plane = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    mean = toy_losses(plane, FIRST_SCALE).mean(dim=-1).numpy()
    contours = contourpy.contour_generator(ticks.numpy(), ticks.numpy(), mean)
    levels = np.linspace(mean.min(), mean.max(), 14)[1:-1]
    lines = [curve[::2] for level in levels for curve in contours.lines(level) if len(curve) > 6]
    return (
        f'<path class="contour" d="{"".join(map(_line, lines))}"/>'
        f'<path class="front" d="{_line(pareto_front(15))}"/>'
    )


def _line(curve: Sequence[Sequence[float]]) -> str:
    return "M" + "L".join(f"{_x(x):.0f} {_y(y):.0f}" for x, y in curve)


def _arrow(point: Tensor, step: Tensor) -> str:
    """A shaft and a head, as lines."""
    x, y = _x(point[0].item()), _y(point[1].item())
    dx, dy = LENGTH * step[0].item(), -LENGTH * step[1].item()
    tip = (x + dx / 2, y + dy / 2)
    left = (tip[0] - 0.3 * dx + 0.2 * dy, tip[1] - 0.3 * dy - 0.2 * dx)
    right = (tip[0] - 0.3 * dx - 0.2 * dy, tip[1] - 0.3 * dy + 0.2 * dx)
    start = (x - dx / 2, y - dy / 2)
    return f"M{_at(start)}L{_at(tip)}M{_at(left)}L{_at(tip)}L{_at(right)}"


def _at(point: tuple[float, float]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _x(value: float) -> float:
    return (value - LOW) / (HIGH - LOW) * SIDE


def _y(value: float) -> float:
    return SIDE - _x(value)

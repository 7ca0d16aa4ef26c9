"""How the pictures look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Wedge
from PIL import Image

from ..data import TOY_STARTS, toy_losses
from ..demo.plots import PALETTE, STYLE
from ..demo.writer import write_file
from .cone import ANGLES, ROUNDING, conflicts, merged_at_angles, pair
from .merged import merge_at
from .toy import FIRST_SCALE, distance_to_front, pareto_front, toy_gradients

__all__ = ["AT_FRONT", "draw_cone", "draw_field", "draw_toy", "grid", "legend", "save"]

Array = npt.NDArray[np.float64]

#: An end that is nearer to the Pareto front than this is drawn and counted as on it.
AT_FRONT = 0.1
#: Both axes of the problem's plane.
WINDOW = (-11.0, 11.0)
#: Arrows along an axis of the direction field.
ARROWS = 17
ALLY, FOE = PALETTE[0], PALETTE[1]


def save(figure: Figure, path: Path) -> None:
    """As PNG, small enough for a README.

    Raises:
        FolderError: If the file cannot be written.
    """
    FigureCanvasAgg(figure)
    drawn = BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(drawn, dpi=min(110.0, float(STYLE["savefig.dpi"])))
    # A palette takes a third of the bytes, and lines and few colours do not show it.
    small = BytesIO()
    Image.open(drawn).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(
        small, format="PNG", optimize=True
    )
    write_file(path, small.getbuffer())


def draw_toy(paths: Mapping[str, Array], first_scale: float = FIRST_SCALE) -> Figure:
    """A panel for each method: the paths from the starts over contours of the mean loss."""
    with mpl.rc_context(STYLE):
        figure, panels = grid(list(paths))
        for (method, curves), axis in zip(paths.items(), panels, strict=True):
            _landscape(axis, first_scale)
            at_front = distance_to_front(curves[:, -1]) <= AT_FRONT
            for curve, color, arrived in zip(curves, PALETTE, at_front, strict=False):
                axis.plot(*curve.T, color=color, linewidth=1.3, zorder=3)
                axis.plot(*curve[0], "o", color=color, markersize=4, zorder=4)
                _end(axis, curve[-1], color, arrived)
            axis.set_title(f"{method}  ·  {at_front.sum()} of {len(TOY_STARTS)}")
        legend(
            figure,
            Line2D([], [], color="black", linewidth=2.5, label="Pareto front"),
            Line2D([], [], color="0.3", marker="o", markersize=4, linewidth=1.3, label="start"),
            Line2D([], [], color="0.3", marker="*", markersize=10, linewidth=0, label="on front"),
            Line2D([], [], color="0.3", marker="X", markersize=7, linewidth=0, label="not there"),
        )
    return figure


def draw_field(names: Sequence[str], first_scale: float = FIRST_SCALE) -> Figure:
    """A panel for each method: which way a step goes, and whether it raises a loss."""
    ticks = torch.linspace(-10.0, 10.0, ARROWS, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks)
    losses, gradients = toy_gradients(points, first_scale)
    with mpl.rc_context(STYLE):
        figure, panels = grid(names)
        for name, axis in zip(names, panels, strict=True):
            merged = merge_at(name, len(points))(gradients, losses)
            raises = conflicts(gradients, merged)
            # Lengths span decades, and Adam forgets them; where gradients cancel is no direction.
            steps = -torch.nn.functional.normalize(merged, dim=-1)
            longest = gradients.norm(dim=-1).amax(dim=-1)
            steps[merged.norm(dim=-1) < ROUNDING * longest] = torch.nan
            _landscape(axis, first_scale)
            for chosen, color in ((~raises, ALLY), (raises, FOE)):
                axis.quiver(
                    *points[chosen].T.numpy(),
                    *steps[chosen].T.numpy(),
                    color=color,
                    angles="xy",
                    scale_units="xy",
                    scale=0.95,
                    width=0.006,
                    zorder=3,
                )
            axis.set_title(f"{name}  ·  {100 * raises.double().mean():.0f}% conflict")
        legend(
            figure,
            Line2D([], [], color=ALLY, linewidth=2, label="step raises no loss"),
            Line2D([], [], color=FOE, linewidth=2, label="step raises a loss"),
            Line2D([], [], color="black", linewidth=2.5, label="Pareto front"),
        )
    return figure


def draw_cone(names: Sequence[str]) -> Figure:
    """A row for each angle and a column for each method: inside of the dual cone, or outside."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.45 * len(names) + 0.6, 1.35 * len(ANGLES) + 0.9))
        grid = figure.subplots(len(ANGLES), len(names), squeeze=False)
        for column, name in enumerate(names):
            grid[0][column].set_title(name)
            for row, merged in enumerate(merged_at_angles(name)):
                _draw_cone(grid[row][column], ANGLES[row], merged)
        for axis, degrees in zip(grid[:, 0], ANGLES, strict=True):
            axis.set_ylabel(f"{degrees}°", rotation=0, ha="right", va="center")
        legend(
            figure,
            Line2D([], [], color="0.35", linewidth=1.5, label="the two gradients"),
            Line2D([], [], color="0.85", linewidth=7, label="dual cone: raises no loss"),
            Line2D([], [], color=ALLY, linewidth=2.5, label="merged, inside"),
            Line2D([], [], color=FOE, linewidth=2.5, label="merged, outside"),
        )
    return figure


def _draw_cone(axis: Axes, degrees: float, merged: torch.Tensor) -> None:
    """The merged vector is cut where it would leave the panel; its length stands below."""
    gradients = pair(degrees)
    axis.add_patch(Wedge((0, 0), 9.0, degrees - 90, 90, color="0.9", zorder=0))
    for gradient in gradients.tolist():
        _arrow(axis, gradient, "0.35", 1.3)
    length = float(merged.norm())
    color = FOE if conflicts(gradients, merged) else ALLY
    _arrow(axis, (merged * min(1.0, 1.15 / max(length, 1e-12))).tolist(), color, 2.2)
    axis.text(0.97, 0.04, f"{length:.2f}", transform=axis.transAxes, ha="right", color=color)
    axis.set(xlim=(-0.75, 1.25), ylim=(-0.55, 1.25), aspect="equal", xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _arrow(axis: Axes, tip: Sequence[float], color: str, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": width}
    arrow = {**style, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axis.annotate("", (tip[0], tip[1]), (0.0, 0.0), arrowprops=arrow, zorder=3)


def _landscape(axis: Axes, first_scale: float) -> None:
    """Contours of the mean loss, and the Pareto front."""
    ticks = torch.linspace(*WINDOW, 160, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    mean = toy_losses(points, first_scale).mean(dim=-1)
    axis.contour(ticks, ticks, mean, levels=12, colors="0.8", linewidths=0.6, linestyles="solid")
    axis.plot(*pareto_front(50).T, color="black", linewidth=2.5, solid_capstyle="round", zorder=2)
    axis.set(xlim=WINDOW, ylim=WINDOW, aspect="equal", xticks=(-10, 0, 10), yticks=(-10, 0, 10))
    axis.grid(visible=False)


def _end(axis: Axes, point: Array, color: str, arrived: bool) -> None:
    marker, size = ("*", 10) if arrived else ("X", 7)
    axis.plot(*point, marker, color=color, markersize=size, markeredgecolor="white", zorder=5)


def grid(names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Panels in rows of four; those of the last row that are too many are hidden."""
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(2.5 * columns + 0.3, 2.6 * rows + 0.5))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in panels[len(names) :]:
        axis.set_visible(False)
    return figure, list(panels[: len(names)])


def legend(figure: Figure, *handles: Line2D) -> None:
    """Below the panels."""
    # One narrow panel has no room for them side by side.
    columns = len(handles) if figure.get_figwidth() > 5 else 1
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)

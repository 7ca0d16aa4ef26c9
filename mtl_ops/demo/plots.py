"""The pictures: how the losses fell, how far the tasks agreed, and what a step cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .config import PLAIN, SINGLE, Config, Run
from .files import Layout
from .timing import Timing
from .trainer import History

__all__ = ["draw", "draw_cosines", "draw_curves", "draw_overhead"]

Array = npt.NDArray[np.float64]

#: Distinct for colour-blind readers too (after Okabe and Ito); the baselines are black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D46", "#7A52C7")
BASELINES = {SINGLE: ("black", (0, (4, 2))), PLAIN: ("black", "solid")}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.6",
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "xtick.color": "0.35",
    "ytick.color": "0.35",
    "axes.labelcolor": "0.25",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.12,
}
#: Matrices of cosines in a row of the picture, from the first epoch to the last.
SNAPSHOTS = 5


def draw(
    layout: Layout,
    config: Config,
    methods: Sequence[str],
    histories: Mapping[Run, History],
    timing: Timing,
) -> list[str]:
    """Draw all pictures.

    Returns:
        The names of those drawn. There are no cosines if no method measures them.
    """
    drawn = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("losses", draw_curves(config, methods, histories)),
            ("cosines", draw_cosines(config, methods, histories)),
            ("overhead", draw_overhead(config, methods, timing)),
        ):
            path = layout.picture(name)
            if figure is None:
                # One of an earlier session with other methods would be taken for this one's.
                path.unlink(missing_ok=True)
                continue
            FigureCanvasAgg(figure)
            figure.savefig(path)
            drawn.append(name)
    return drawn


def draw_curves(config: Config, methods: Sequence[str], histories: Mapping[Run, History]) -> Figure:
    """Training loss above and test metric below, a column for each task, by epoch.

    Lines are means over the seeds; the bands of one standard deviation are drawn for the baselines
    and up to eight methods, more would be mud.
    """
    width = 3.1 * len(config.tasks) + 0.4
    figure = Figure(figsize=(width, 6.2))
    axes = figure.subplots(2, len(config.tasks), sharex=True, squeeze=False)
    for column, task in enumerate(config.tasks):
        for row, part in enumerate(("loss", "metric")):
            _draw_panel(axes[row][column], config, methods, histories, task, part)
        axes[0][column].set_title(task, fontweight="bold")
        axes[1][column].set_xlabel("epoch")
        axes[1][column].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes[0][0].get_legend_handles_labels()
    # As many columns as the longest name allows, in inches.
    most = int(width / (0.6 + 0.075 * max(map(len, labels))))
    columns = math.ceil(len(labels) / math.ceil(len(labels) / most))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=1.8)
    return figure


def draw_cosines(
    config: Config, methods: Sequence[str], histories: Mapping[Run, History]
) -> Figure | None:
    """Cosines between the tasks' gradients, a row for each method, from early to late.

    Each matrix is the mean over an epoch's steps and over the seeds. ``None`` if no method has
    measured any.
    """
    measured = {
        method: matrices
        for method in methods
        if (matrices := _cosine_matrices(config, method, histories)) is not None
    }
    if not measured:
        return None
    epochs = _snapshots(config.epochs)
    shown = np.stack([matrices[epochs] for matrices in measured.values()])
    largest = float(np.nanmax(np.abs(shown))) if np.isfinite(shown).any() else 1.0
    limit = max(0.1, math.ceil(10 * largest - 1e-9) / 10)
    figure = Figure(figsize=(1.35 * len(epochs) + 1.6, 1.4 * len(measured) + 1.4))
    grid = figure.subplots(len(measured), len(epochs), squeeze=False)
    for index, (method, matrices) in enumerate(measured.items()):
        for axis, epoch in zip(grid[index], epochs, strict=True):
            image = _draw_matrix(axis, matrices[epoch], limit)
            if index == 0:
                axis.set_title(f"epoch {epoch + 1}", color="0.25")
            if index == len(measured) - 1:
                axis.set_xticks(range(len(config.tasks)), config.tasks, rotation=40, ha="right")
        grid[index][0].set_yticks(range(len(config.tasks)), config.tasks)
        grid[index][0].set_ylabel(method, fontweight="bold", color="black", labelpad=8)
    axes = grid.ravel().tolist()
    inch = 1.0 / figure.get_figheight()
    bar = figure.colorbar(
        image, ax=axes, location="top", fraction=0.1 * inch, pad=0.2 * inch, aspect=40, shrink=0.7
    )
    bar.set_label("cosine of two tasks' gradients  (red: conflict)", labelpad=6)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def draw_overhead(config: Config, methods: Sequence[str], timing: Timing) -> Figure:
    """Time of a training step against the plain sum, a bar each, the cheapest on top.

    The whiskers are quartiles over the steps.
    """
    plain = timing[PLAIN]["median"]
    single = [timing[f"{SINGLE}-{task}"] for task in config.tasks]
    times = {method: timing[method] for method in (PLAIN, *methods)}
    times[f"{SINGLE} (all tasks)"] = {key: sum(each[key] for each in single) for key in single[0]}
    times = dict(sorted(times.items(), key=lambda item: item[1]["median"]))
    medians = np.array([time["median"] for time in times.values()])
    whiskers = np.abs([[time[end] for time in times.values()] for end in ("low", "high")] - medians)
    figure = Figure(figsize=(7.2, 0.34 * len(times) + 1.3))
    axis = figure.subplots()
    colors = [PALETTE[0] if method in methods else "0.55" for method in times]
    axis.barh(
        list(times),
        medians / plain,
        xerr=whiskers / plain,
        color=colors,
        height=0.66,
        error_kw={"ecolor": "0.25", "elinewidth": 0.9, "capsize": 2},
    )
    for place, (median, reach) in enumerate(zip(medians, whiskers[1], strict=True)):
        axis.annotate(
            f"{median / plain:.2f}×  ·  {median:.1f} ms",
            ((median + reach) / plain, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color="0.25",
            fontsize=8,
        )
    axis.axvline(1.0, color="0.35", linewidth=0.9, linestyle=(0, (3, 3)))
    axis.set_xlim(0.0, 1.28 * float((medians + whiskers[1]).max()) / plain)
    axis.set_ylim(len(times) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0, labelcolor="black")
    axis.set_xlabel("time of a training step  (× plain sum of the losses)")
    return figure


def _draw_panel(
    axis: Axes,
    config: Config,
    methods: Sequence[str],
    histories: Mapping[Run, History],
    task: str,
    part: str,
) -> None:
    """One task's loss or metric by epoch, a line for each method."""
    goal = config.goals[task]
    percent = part == "metric" and goal.percent
    epochs = np.arange(1, config.epochs + 1)
    for method in (SINGLE, PLAIN, *methods):
        values = (100 if percent else 1) * _curves(config, method, histories, task, part)
        style = _style(method, methods)
        middle = values.mean(axis=0)
        axis.plot(epochs, middle, label=method, **style, marker="o" if config.epochs == 1 else "")
        if len(config.seeds) > 1 and len(methods) <= len(PALETTE):
            spread = values.std(axis=0, ddof=1)
            # A band that reaches zero has no place on a logarithmic axis.
            low = np.maximum(middle - spread, 0.5 * middle)
            axis.fill_between(
                epochs, low, middle + spread, color=style["color"], alpha=0.07, linewidth=0
            )
    if percent:
        axis.set_ylabel(f"test {goal.metric}, %")
        return
    axis.set_ylabel("training loss" if part == "loss" else f"test {goal.metric}")
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    subs = (1.0,) if high > 500 * low else (1.0, 2.0, 5.0)
    axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())


def _draw_matrix(axis: Axes, matrix: Array, limit: float) -> Any:
    """One matrix with its figures; the diagonal says nothing and stays empty."""
    image = axis.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    for row, column in np.argwhere(np.isfinite(matrix)):
        value = matrix[row, column]
        color = "white" if abs(value) > 0.5 * limit else "0.15"
        text = f"{value:+.2f}".replace("0.", ".").replace("-", "−")
        text = ".00" if text[1:] == ".00" else text
        axis.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)
    return image


def _style(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour and line of a method; with many methods colours come back with other dashes."""
    if method in BASELINES:
        color, line = BASELINES[method]
        return {"color": color, "linestyle": line, "linewidth": 1.6}
    turn, place = divmod(list(methods).index(method), len(PALETTE))
    lines = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
    return {"color": PALETTE[place], "linestyle": lines[turn % len(lines)], "linewidth": 1.3}


def _curves(
    config: Config, method: str, histories: Mapping[Run, History], task: str, part: str
) -> Array:
    """``(seeds, epochs)`` values of one task."""
    curves = []
    for seed in config.seeds:
        run = Run(method, seed, (task,) if method == SINGLE else config.tasks)
        place = run.tasks.index(task)
        curves.append([values[place] for values in histories[run][part]])
    return np.array(curves, dtype=np.float64)


def _cosine_matrices(config: Config, method: str, histories: Mapping[Run, History]) -> Array | None:
    """``(epochs, T, T)`` means over the seeds, NaN on the diagonal; ``None`` if not measured."""
    parts = [histories[Run(method, seed, config.tasks)].get("cosine") for seed in config.seeds]
    if not all(parts):
        return None
    with warnings.catch_warnings():
        # A pair that was never measured is NaN, as it should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        pairs = np.nanmean(np.array(parts, dtype=np.float64), axis=0)
    matrices = np.full((len(pairs), len(config.tasks), len(config.tasks)), np.nan)
    for place, (row, column) in enumerate(combinations(range(len(config.tasks)), 2)):
        matrices[:, row, column] = matrices[:, column, row] = pairs[:, place]
    return matrices


def _snapshots(epochs: int) -> list[int]:
    """Up to :data:`SNAPSHOTS` epochs at equal distances, the first and the last among them."""
    places = np.linspace(0, epochs - 1, min(SNAPSHOTS, epochs))
    return [int(place) for place in places.round()]

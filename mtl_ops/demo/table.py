"""The final table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..data import Goal
from .config import SINGLE, Config
from .summary import Figure, Row

__all__ = ["render"]


@dataclass(frozen=True)
class _Column:
    """A column before it is laid out; ``best`` are the rows to stress."""

    head: str
    unit: str
    cells: tuple[str, ...]
    best: tuple[int, ...] = ()


def render(
    config: Config, rows: Sequence[Row], left_out: Mapping[str, str], console: Console
) -> RenderableType:
    """The table and the lines below it that say how to read it.

    Where the console is too narrow for all columns there are two tables, quality and cost.
    """
    quality, cost = [*_quality(config, rows), *_overall(rows)], _cost(rows)
    methods = [row.method for row in rows]
    tables = [_table(methods, [*quality, *cost])]
    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, tables[0]).maximum > console.width:
        tables = [*_tables(methods, quality, console), _table(methods, cost)]
    # Only the first sentence of the reason; the rest is advice for who writes code.
    reasons = [f"Left out: {name} ({why.split('. ')[0]})." for name, why in left_out.items()]
    notes = [_legend(config), *reasons]
    below = Padding(Text("\n".join(notes), style="dim"), (0, 1))
    return Group(*tables, below)


def _quality(config: Config, rows: Sequence[Row]) -> list[_Column]:
    """What was learnt: each task's metric, and delta m."""
    columns = []
    for task in config.tasks:
        figures = [row.metrics[task] for row in rows]
        goal = config.goals[task]
        if goal.percent:
            cells = [_figure(100 * f.mean, 100 * f.spread, ".1f", ".1f") for f in figures]
        else:
            cells = [_figure(f.mean, f.spread, ".3f", ".3f") for f in figures]
        best = _best(figures, cells, higher=goal.higher_is_better)
        columns.append(_Column(task, _unit(goal), tuple(cells), best))
    gains = [row.delta_m or Figure(math.nan, math.nan) for row in rows]
    cells = [
        "" if row.delta_m is None else _figure(gain.mean, gain.spread, "+.1f", ".1f")
        for row, gain in zip(rows, gains, strict=True)
    ]
    return [*columns, _Column("Δm", "%", tuple(cells), _best(gains, cells, higher=True))]


def _tables(methods: Sequence[str], columns: Sequence[_Column], console: Console) -> list[Table]:
    """As many tables below each other as the columns need; a console may be too narrow for one."""
    unbounded = console.options.update(width=10_000)
    tables: list[Table] = []
    start = 0
    for end in range(1, len(columns) + 1):
        wider = _table(methods, columns[start : end + 1]) if end < len(columns) else None
        if wider is None or Measurement.get(console, unbounded, wider).maximum > console.width:
            tables.append(_table(methods, columns[start:end]))
            start = end
    return tables


def _overall(rows: Sequence[Row]) -> list[_Column]:
    """Figures of all tasks together, in percent; the row of single tasks has none."""
    names = dict.fromkeys(name for row in rows for name in row.overall)
    return [
        _Column(name, "%", tuple(_share(row.overall.get(name)) for row in rows)) for name in names
    ]


def _share(figure: Figure | None) -> str:
    return "" if figure is None else _figure(100 * figure.mean, 100 * figure.spread, ".1f", ".1f")


def _cost(rows: Sequence[Row]) -> list[_Column]:
    """What it took: time, overhead, and how often the tasks disagreed."""
    shares = ["" if row.conflicts is None else f"{100 * row.conflicts:.0f}" for row in rows]
    return [
        _Column("step", "ms", tuple(f"{row.milliseconds:.1f}" for row in rows)),
        _Column("overhead", "× plain", tuple(f"{row.overhead:.2f}" for row in rows)),
        _Column("conflicts", "% of steps", tuple(shares)),
    ]


def _table(methods: Sequence[str], columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="", padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True, header_style="bold")
    for column in columns:
        head = Text.assemble((column.head, "bold"), "\n", (column.unit, "dim"))
        table.add_column(head, justify="right", overflow="fold")
    for index, method in enumerate(methods):
        cells = [
            Text(column.cells[index], style="bold green" if index in column.best else "")
            for column in columns
        ]
        table.add_row(method, *cells, end_section=method == SINGLE)
    return table


def _best(figures: Sequence[Figure], cells: Sequence[str], *, higher: bool) -> tuple[int, ...]:
    """Where the best mean stands, as far as its digits are shown; nowhere if there is none."""
    finite = [index for index, figure in enumerate(figures) if math.isfinite(figure.mean)]
    if not finite:
        return ()
    top = (max if higher else min)(finite, key=lambda index: figures[index].mean)
    return tuple(index for index in finite if cells[index].split()[0] == cells[top].split()[0])


def _figure(mean: float, spread: float, mean_format: str, spread_format: str) -> str:
    if not math.isfinite(mean):
        return str(mean)
    text = format(mean, mean_format)
    return text if math.isnan(spread) else f"{text} ± {format(spread, spread_format)}"


def _unit(goal: Goal) -> str:
    if not goal.percent:
        return goal.metric
    return "% right" if goal.metric == "accuracy" else f"{goal.metric}, %"


def _legend(config: Config) -> str:
    seeds = len(config.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"Test part after the last epoch, {spread}. {config.problem.note}\n"
        "Δm: relative improvement against the single-task models of the same seed, mean over the "
        "tasks; more is better.\n"
        "step: median of a whole training step, all methods in turn in one process; single: one "
        "step of each of its models.\n"
        "overhead: against plain, the losses summed and one backward with the bare optimizer.\n"
        "conflicts: steps in which two tasks' gradients have a negative cosine, where they were "
        "measured."
    )

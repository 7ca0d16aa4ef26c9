"""The final table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..data import DIGITS_TASKS
from .config import SINGLE, Config
from .summary import Figure, Row

__all__ = ["render"]


def render(config: Config, rows: Sequence[Row], left_out: Mapping[str, str]) -> Group:
    """The table and the lines below it that say how to read it."""
    table = Table(title="Handwritten digits: test part after the last epoch", show_lines=False)
    table.add_column("method", no_wrap=True)
    for task in config.tasks:
        unit = "%" if DIGITS_TASKS[task].metric == "accuracy" else "MSE"
        table.add_column(f"{task}\n{unit}", justify="right")
    table.add_column("Δm\n%", justify="right")
    table.add_column("step\nms", justify="right")
    table.add_column("× plain", justify="right")
    table.add_column("conflicts\n% of steps", justify="right")
    for row in rows:
        table.add_row(
            row.method,
            *(_metric(task, row.metrics[task]) for task in config.tasks),
            "" if row.delta_m is None else _figure(row.delta_m, "+.2f", ".2f"),
            f"{row.milliseconds:.1f}",
            f"{row.overhead:.2f}",
            "" if row.conflicts is None else f"{100 * row.conflicts:.0f}",
            end_section=row.method == SINGLE,
        )
    return Group(table, Text(_legend(config)), *(Text(line) for line in _left_out(left_out)))


def _metric(task: str, figure: Figure) -> str:
    if DIGITS_TASKS[task].metric == "accuracy":
        return _figure(Figure(100 * figure.mean, 100 * figure.spread), ".2f", ".2f")
    return _figure(figure, ".4f", ".4f")


def _figure(figure: Figure, mean: str, spread: str) -> str:
    if not math.isfinite(figure.mean):
        return str(figure.mean)
    text = format(figure.mean, mean)
    return text if math.isnan(figure.spread) else f"{text} ± {format(figure.spread, spread)}"


def _legend(config: Config) -> str:
    seeds = len(config.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    return (
        f"Accuracy: higher is better; MSE: lower (1 = the variance of the input). {spread}.\n"
        "Δm: mean over the tasks of the relative improvement against the single-task model of the "
        "same seed; positive is better.\n"
        "step: median of a whole training step, methods timed in turn in one process; single: one "
        "step of every single-task model.\n"
        "× plain: against the losses summed and one backward with the bare optimizer.\n"
        "conflicts: steps in which two tasks' gradients have a negative cosine (not measured where "
        "there are no task gradients)."
    )


def _left_out(left_out: Mapping[str, str]) -> list[str]:
    return [f"Left out: {name} ({reason})" for name, reason in left_out.items()]

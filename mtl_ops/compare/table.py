"""The rows as a table in the terminal."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .cost import StepCost

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["plain_table", "render", "show"]

_HEADS = ("step", "ms", "× plain sum", "peak MB", "angle to exact")


def show(rows: Sequence[StepCost]) -> None:
    """Prints them, with ``rich`` where it is installed."""
    if importlib.util.find_spec("rich") is None:
        print(plain_table(rows))
        return
    from rich.console import Console

    Console(highlight=False).print(render(rows), soft_wrap=True)


def render(rows: Sequence[StepCost]) -> RenderableType:
    """For ``rich``."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for place, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        if row.seconds is not None:
            table.add_row(*_cells(row))
    return Group(table, *(Text(note, style="dim") for note in _notes(rows)))


def plain_table(rows: Sequence[StepCost]) -> str:
    """As text."""
    lines = [_HEADS, *(_cells(row) for row in rows if row.seconds is not None)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        first, *others = (
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join([first, *others]).rstrip())
    return "\n".join([*text, *_notes(rows)])


def _cells(row: StepCost) -> tuple[str, ...]:
    assert row.seconds is not None
    return (
        row.name,
        f"{1e3 * row.seconds:.2f}",
        f"{row.ratio:.2f}",
        "" if row.peak is None else f"{row.peak / 1e6:.1f}",
        "" if row.angle is None else f"{row.angle:.1f}°",
    )


def _notes(rows: Sequence[StepCost]) -> list[str]:
    """What does not apply, and what was warned of."""
    return [f"{row.name}: {row.note}" for row in rows if row.note]

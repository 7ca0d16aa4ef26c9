"""Results as a table: for a terminal, and in Markdown for the pages of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .results import Row

__all__ = ["HEAD", "cells", "describe", "goals", "line", "markdown", "number", "show"]

HEAD = ("case", "method", "ours", "rival", "theirs", "ratio", "floor", "goal")

NOTE = (
    "Medians [quartiles]. ratio: theirs / ours, from interleaved readings. floor: ours / the least "
    "possible. goal: what was to be reached, what was, and whether."
)

#: Columns of words.
_TEXTS = frozenset({"case", "method", "rival", "goal"})
#: Places of the columns that say the same for every rival.
_ONCE = frozenset({0, 1, 2, HEAD.index("floor")})


def cells(row: Row) -> tuple[str, ...]:
    """What a row says, under :data:`HEAD`."""
    ours = f"{number(row.ours.median)} {row.unit} [{number(row.ours.low)}, {number(row.ours.high)}]"
    theirs = "" if row.theirs is None else f"{number(row.theirs.median)} {row.unit}"
    times = "" if row.ratio is None else f"{number(row.ratio.median)}×"
    return (row.case, row.method, ours, row.rival or "", theirs, times, _floor(row), _goal(row))


def show(title: str, entry: dict[str, Any]) -> None:
    """Prints the table, with rich if it is installed."""
    rows = [cells(row) for row in entry["rows"]]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(line[i]) for line in [HEAD, *rows]) for i in range(len(HEAD))]
        print(f"\n{title}")
        for line in [HEAD, *rows]:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for head in HEAD:
        table.add_column(head, no_wrap=True, justify="left" if head in _TEXTS else "right")
    before: tuple[str, ...] = ()
    for line in rows:
        repeated = {place for place in _ONCE if line[:3] == before}
        table.add_row(*("" if place in repeated else text for place, text in enumerate(line)))
        before = line[:3]
    console = Console()
    if not console.is_terminal:  # a pipe has no width, and a file should hold the whole table
        console = Console(width=200)
    console.print(table)


def markdown(entry: dict[str, Any], only: str = "") -> str:
    """One line a case and method, one column a rival, and below it what it was measured on.

    Args:
        entry: A benchmark's results.
        only: Text that a case has to contain.
    """
    rows: Sequence[Row] = [row for row in entry["rows"] if only in row.case]
    rivals = list(dict.fromkeys(row.rival for row in rows if row.rival is not None))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.method), []).append(row)
    several_cases = len({row.case for row in rows}) > 1
    with_floor = any(row.floor is not None for row in rows)
    head = [
        *(["case"] if several_cases else []),
        "method",
        "ours",
        *rivals,
        *(["ours / floor"] if with_floor else []),
    ]
    lines = [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    for (case, method), group in groups.items():
        first = group[0]
        theirs = {row.rival: _against(row) for row in group}
        lines.append(
            line(
                [
                    *([case] if several_cases else []),
                    f"`{method}`",
                    f"{number(first.ours.median)} {first.unit}",
                    *(theirs.get(rival, "") for rival in rivals),
                    *([_floor(first)] if with_floor else []),
                ]
            )
        )
    above = "" if several_cases or not rows else f"{rows[0].case}:\n\n"
    return f"{above}{chr(10).join(lines)}\n\n{describe(entry['machine'])}"


def goals(entry: dict[str, Any]) -> str:
    """In Markdown: each goal, what was reached, and whether that is enough."""
    head = ("case", "method", "ours", "against", "goal")
    rows = [
        (
            row.case,
            f"`{row.method}`",
            f"{number(row.ours.median)} {row.unit}",
            row.rival or "",
            _goal(row),
        )
        for row in entry["rows"]
        if row.goal is not None
    ]
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def describe(machine: dict[str, Any]) -> str:
    """What was measured on, in a sentence."""
    bandwidth = machine["bandwidth"]
    versions = ", ".join(f"{name} {which}" for name, which in machine["versions"].items())
    where = machine["processor"]
    if machine["device"] != "cpu":
        where = f"{machine['device']}, host {where}"
    return (
        f"{where}, {machine['threads']} threads ({machine['build']['simd']}), reads "
        f"{bandwidth['read']:.0f} GB/s, copies {bandwidth['copy']:.0f} GB/s; {versions}. Medians."
    )


def _against(row: Row) -> str:
    if row.theirs is None:
        return ""
    if row.ratio is None:  # another figure of ours: nothing to be divided
        return f"{number(row.theirs.median)} {row.unit}"
    return f"{number(row.theirs.median)} {row.unit} ({number(row.ratio.median)}×)"


def _floor(row: Row) -> str:
    return "" if row.floor is None else f"{number(row.ours.median / row.floor)}×"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = "✓" if row.met else "✗"
    bound, achieved = row.goal.bound, row.achieved
    if row.goal.kind == "value":
        return f"≤ {number(bound)} {row.unit} {sign}"
    if row.goal.kind == "floor":
        return f"≥ {100 * bound:.0f}% of bandwidth: {100 * achieved:.0f}% {sign}"
    if row.goal.kind == "overhead":
        return f"≤ {number(bound)}×: {number(achieved)}× {sign}"
    return f"≥ {number(bound)}×: {number(achieved)}× {sign}"


def number(value: float) -> str:
    """Three digits, as text."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def line(texts: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(texts)} |"

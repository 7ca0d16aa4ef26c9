"""The tables of methods, and how a committed page gets what a program writes into it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .methods import GROUPS, ROWS, Row, group_of

__all__ = ["fill", "line", "overview", "short"]


def short() -> str:
    """For the README: name, paper, what it needs."""
    rows = [row for group in GROUPS for row in ROWS if group_of(row) == group]
    return table(("name", "paper", "needs"), [(name(row), row.paper, row.needs) for row in rows])


def overview() -> str:
    """For the methods' page: a table for each group, with all but where others differ."""
    parts = []
    for group, what in GROUPS.items():
        rows = [
            (name(row), row.paper, row.needs, row.memory, row.cost, row.holds)
            for row in ROWS
            if group_of(row) == group
        ]
        head = ("name", "paper", "needs", "memory", "cost of the weights", "what holds")
        parts.append(f"## {group}\n\nThese {what}.\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def name(row: Row) -> str:
    return f"`{row.name}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def fill(text: str, marker: str, content: str) -> str:
    """The text with another content between ``<!-- MARKER -->`` and ``<!-- /MARKER -->``.

    Raises:
        ValueError: If the markers are not there.
    """
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    if start not in text or end not in text:
        raise ValueError(f"The page should have the markers {start.strip()!r} and {end!r}.")
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{start}\n{content}\n\n{end}", text)

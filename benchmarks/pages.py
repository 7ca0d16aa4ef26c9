"""Writes what the documentation says of speed and memory, from ``benchmarks/results``: no measuring.

    python -m benchmarks.pages

Fills the tables in between their markers (``<!-- bench:NAME CASE -->``, in the pages under ``docs/benchmarks``
and in the README), draws the pictures, and writes the goals with what was reached into ``benchmarks/goals``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import drawings, multiples, results, table
from .published import published
from .run import BENCHMARKS

__all__ = ["fill", "main", "written"]

ROOT = Path(__file__).parents[1]
RESULTS = results.FOLDER / "cpu.json"
_MARKER = re.compile(r"(<!-- bench:(\S+)(?: ([^\n]*?))? -->\n).*?(<!-- /bench -->)", re.DOTALL)

Entries = Mapping[str, dict[str, Any]]
#: Markers that are not the name of a benchmark.
SPECIAL: dict[str, Callable[[Entries], str]] = {
    "published": published,
    "steps-times": multiples.times,
    "steps-samples": multiples.samples,
    "steps-memory": multiples.memories,
    "conditions": lambda entries: drawings.conditions(entries),
}


def main() -> None:
    """Writes all of it."""
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def written() -> dict[Path, str]:
    """Each file that is written, with its text."""
    entries = results.load(RESULTS)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "benchmarks").glob("*.md"))]
    found = {path: fill(path.read_text(encoding="utf-8"), entries) for path in pages}
    for name, drawn in drawings.draw(entries).items():
        found[drawings.FOLDER / name] = drawn
    found[ROOT / "benchmarks" / "goals" / "cpu.md"] = goals(entries)
    return found


def fill(text: str, entries: Entries) -> str:
    """Fills in what stands between ``<!-- bench:NAME CASE -->`` and ``<!-- /bench -->``.

    ``CASE`` may be left out; it is text that a case has to contain. A benchmark that has not been run is said to
    be missing.

    Raises:
        ValueError: If a marker names no benchmark, or a case without results.
    """

    def replace(found: re.Match[str]) -> str:
        start, name, only, end = found.groups()
        if name in SPECIAL:
            return f"{start}\n{SPECIAL[name](entries)}\n\n{end}"
        if name not in BENCHMARKS:
            raise ValueError(f"A marker should name one of {sorted(BENCHMARKS)}. Found {name!r}.")
        if name not in entries:
            return f"{start}\nNot measured yet: `python -m benchmarks.run --only {name}`.\n\n{end}"
        if not any((only or "") in row.case for row in entries[name]["rows"]):
            raise ValueError(f"A marker of {name!r} should name a case. Found {only!r}.")
        return f"{start}\n{table.markdown(entries[name], only or '')}\n\n{end}"

    return _MARKER.sub(replace, text)


def goals(entries: Entries) -> str:
    """What was to be reached, what was, and whether that is enough."""
    parts = [
        "# Goals",
        "What each benchmark is to reach, and what it reached when it was last run. Written by "
        "`python -m benchmarks.pages`.",
    ]
    for name, what in BENCHMARKS.items():
        if name in entries and any(row.goal for row in entries[name]["rows"]):
            parts += [f"## {name}", f"{what}.", table.goals(entries[name])]
            parts.append(table.describe(entries[name]["machine"]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

"""Every way to take a step as a multiple of a plain one: a row a model, a column a way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import steps, table
from .results import Row

__all__ = ["memories", "samples", "times"]

Entries = Mapping[str, dict[str, Any]]
MISSING = "Not measured yet: `python -m benchmarks.run --only steps`."
MEMORY, SAMPLE = "peak memory of ", "a loss for each sample: "


def times(entries: Entries) -> str:
    """Time of a step, in plain steps, of models with T losses."""
    rows = [row for row in _rows(entries) if not row.case.startswith((MEMORY, SAMPLE))]
    return _pivot([row for row in rows if row.rival == steps.PLAIN], "model", "ms")


def memories(entries: Entries) -> str:
    """Peak memory above the parameters, in that of a plain step."""
    return _pivot([row for row in _rows(entries) if row.case.startswith(MEMORY)], "model", "MB")


def samples(entries: Entries) -> str:
    """Time of a step with a loss for each sample, in plain steps, and how much longer TorchJD takes than ours."""
    rows = [row for row in _rows(entries) if row.case.startswith(SAMPLE)]
    theirs = {row.case: row for row in rows if row.rival == steps.GRAMIAN}
    plain = [row for row in rows if row.rival == steps.PLAIN]
    extra = {c: {"TorchJD autogram / ours": _shown(r.ratio)} for c, r in theirs.items()}
    return _pivot(plain, "model", "ms", extra)


def _rows(entries: Entries) -> list[Row]:
    rows: list[Row] = entries.get("steps", {}).get("rows", [])
    return rows


def _pivot(
    rows: list[Row], title: str, unit: str, extra: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    cases = list(dict.fromkeys(row.case for row in rows))
    if not cases:
        return MISSING
    cells = {(row.case, row.method): _shown(row.ratio, turned=True) for row in rows}
    plain = {row.case: "" if row.theirs is None else row.theirs.median for row in rows}
    ways = list(dict.fromkeys(row.method for row in rows))
    more = list(dict.fromkeys(name for each in (extra or {}).values() for name in each))
    head = [title, f"{steps.PLAIN}, {unit}", *(_code(way) for way in ways), *more]
    lines = [table.line(head), table.line(["---", *["---:"] * (len(head) - 1)])]
    for case in cases:
        of_plain = plain[case]
        known = [table.number(of_plain) if isinstance(of_plain, float) else ""]
        known += [cells.get((case, way), "") for way in ways]
        known += [(extra or {}).get(case, {}).get(name, "") for name in more]
        name = case.removeprefix(MEMORY).removeprefix(SAMPLE)
        lines.append(table.line([name, *known]))
    return "\n".join(lines)


def _code(way: str) -> str:
    return f"`{way}`" if "=" in way else way


def _shown(ratio: Any, turned: bool = False) -> str:
    if ratio is None:
        return ""
    return f"{table.number(1.0 / ratio.median if turned else ratio.median)}×"

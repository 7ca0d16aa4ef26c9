"""Tables and figures in Markdown, for the pages of studies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["made_with", "spread", "table"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are to the right.

    Example:
        >>> print(table(["method", "s"], [["sum", "1.0"]]))
        | method | s |
        |---|---:|
        | sum | 1.0 |
    """
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    joined = [f"| {' | '.join(line)} |" for line in lines]
    joined[1] = joined[1].replace(" ", "")
    return "\n".join(joined)


def spread(values: Sequence[float], digits: int, factor: float = 1.0) -> str:
    """Mean and sample standard deviation; a dash if there is nothing, or not every value is a finite number.

    Example:
        >>> spread([0.5, 0.7], 1, 100), spread([], 1)
        ('60.0 ± 14.1', '–')
        >>> spread([0.5, float("nan")], 1)
        '– (1 of 2 diverged)'
    """
    if not values:
        return "–"
    lost = sum(not math.isfinite(value) for value in values)
    if lost:
        return f"– ({lost} of {len(values)} diverged)"
    scaled = [factor * value for value in values]
    mean = f"{statistics.fmean(scaled):.{digits}f}"
    return mean if len(scaled) < 2 else f"{mean} ± {statistics.stdev(scaled):.{digits}f}"


def made_with(results: Mapping[str, Any]) -> str:
    """A sentence with the commit, the versions and the settings; and a note, if the results have one."""
    later = "".join(f", and gone on with by {_facts(each)}" for each in results.get("later", []))
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in results["settings"].items())
    return (
        f"Made by `mtl-ops reproduce {results['study']} --budget {results['budget']}` with "
        f"{_facts(results['environment'])}{later}. Settings: {settings}."
        + (f" {results['note']}" if results.get("note") else "")
    )


def _facts(environment: Mapping[str, Any]) -> str:
    commit = f"commit `{environment['commit']}`, " if environment["commit"] else ""
    return (
        f"{commit}mtl_ops {environment['mtl_ops']}, torch {environment['torch']}, Python {environment['python']}, "
        f"{_processes(environment)}{environment['threads']} thread(s), {environment['machine']}"
    )


def _processes(environment: Mapping[str, Any]) -> str:
    count = environment.get("processes", 1)
    return "" if count == 1 else f"{count} processes at a time, each of "


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_plain(item)}' for name, item in value.items())})"
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)

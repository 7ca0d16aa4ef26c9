"""Tables and figures in Markdown, for the pages of studies."""

from __future__ import annotations

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
    """Mean and sample standard deviation, or a dash if there is nothing.

    Example:
        >>> spread([0.5, 0.7], 1, 100), spread([], 1)
        ('60.0 ± 14.1', '–')
    """
    if not values:
        return "–"
    scaled = [factor * value for value in values]
    mean = f"{statistics.fmean(scaled):.{digits}f}"
    return mean if len(scaled) < 2 else f"{mean} ± {statistics.stdev(scaled):.{digits}f}"


def made_with(results: Mapping[str, Any]) -> str:
    """A sentence with the commit, the versions and the settings; and a note, if the results have one."""
    facts = results["environment"]
    commit = f"commit `{facts['commit']}`, " if facts["commit"] else ""
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in results["settings"].items())
    return (
        f"Made by `mtl-ops reproduce {results['study']} --budget {results['budget']}` with {commit}"
        f"mtl_ops {facts['mtl_ops']}, torch {facts['torch']}, Python {facts['python']}, "
        f"{facts['threads']} thread(s), {facts['machine']}. Settings: {settings}."
        + (f" {results['note']}" if results.get("note") else "")
    )


def _plain(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)

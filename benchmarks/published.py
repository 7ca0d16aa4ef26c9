"""Figures that others published, beside those of the same experiment here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import table, toy

__all__ = ["FAMO", "published"]

#: Seconds that 50,000 steps on the toy problem took: Liu et al., "FAMO", NeurIPS 2023, figure 1. Under "adam" the sum.
FAMO = {"adam": 33, "famo": 39, "pcgrad": 54, "mgda": 60, "cagrad": 89, "nash_mtl": 995}


def published(entries: Mapping[str, dict[str, Any]]) -> str:
    """A table of times relative to Adam on the summed losses, in Markdown; every column of its own machine.

    Ratios are of readings of the same round: in a quotient of medians the machine's drift would stay.
    """
    rows = entries["toy"]["rows"]
    plain = {row.method: row for row in rows if row.rival == toy.SUMMED}
    theirs = {row.method: row.ratio for row in rows if row.rival == "TorchJD"}
    head = ("method", "FAMO's figure 1", "TorchJD", "mtl_ops")
    lines = [table.line(head), table.line(["---", *["---:"] * 3])]
    for name, seconds in FAMO.items():
        if name == "adam":
            continue
        row = plain[name]
        rival = theirs.get(name)
        lines.append(
            table.line(
                (
                    f"`{name}`",
                    _times(seconds / FAMO["adam"]),
                    "" if rival is None else _times(rival.median / row.ratio.median),
                    _times(1.0 / row.ratio.median),
                )
            )
        )
    return "\n".join(lines)


def _times(value: float) -> str:
    return f"{table.number(value)}×"

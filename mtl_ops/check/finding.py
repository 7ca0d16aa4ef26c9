"""What one check found: a line of the table."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Comparison", "Finding", "Verdict", "judge"]


class Verdict(enum.Enum):
    """How a check ended."""

    RIGHT = "ok"
    WRONG = "DIFFERS"
    MEASURED = "measured"
    LEFT_OUT = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: What was checked, such as an operator's name.
        device: The type of device it ran on.
        verdict: How it ended.
        detail: How many cases, or the first of those that differ, or why it was left out.
    """

    what: str
    device: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Comparison:
    """One case of a check.

    Attributes:
        case: What was compared, for whoever looks for the reason.
        off: How far it is off, as a share of what rounding allows: up to 1 it is right. NaN is not.
    """

    case: str
    off: float


def judge(what: str, device: str, compare: Callable[[], Iterator[Comparison]]) -> Finding:
    """Goes through the cases of a check; what is raised on the way is a difference, too."""
    count, wrong, worst = 0, 0, Comparison("no case", -1.0)
    try:
        for comparison in compare():
            count += 1
            off = math.inf if math.isnan(comparison.off) else comparison.off
            wrong += off > 1.0
            if off > worst.off:
                worst = Comparison(comparison.case, off)
    except Exception as error:
        after = f"after {count} cases " if count else ""
        said = " ".join(str(error).split())
        return Finding(what, device, Verdict.WRONG, f"{after}{type(error).__name__}: {said}")
    if wrong:
        detail = f"{wrong} of {count} cases, worst {worst.case}: {worst.off:.2g} times what rounding allows"
        return Finding(what, device, Verdict.WRONG, detail)
    if not count:
        return Finding(what, device, Verdict.WRONG, "nothing was compared")
    detail = f"{count} cases, at most {worst.off:.2g} of what rounding allows"
    return Finding(what, device, Verdict.RIGHT, detail)

"""What a benchmark finds: rows of ours against a rival, with the floor and the goal, and the JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .timing import Quartiles, Timing, ratio

__all__ = ["FOLDER", "Goal", "Row", "load", "paired_floor", "row_of_times", "save"]

FOLDER = Path(__file__).parent / "results"

#: Seconds are kept in the unit they are read in.
UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6}


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Attributes:
        kind: ``"speed-up"``: the rival takes at least ``bound`` times as long. ``"overhead"``: ours
            takes at most ``bound`` times as long as the rival. ``"value"``: ours is at most
            ``bound`` in the row's unit. ``"floor"``: ours reaches at least this share of the floor.
        bound: Of what ``kind`` says.
    """

    kind: Literal["speed-up", "overhead", "value", "floor"]
    bound: float


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: What was measured: sizes, data.
        method: Of ours, and of the rival.
        ours: Median and quartiles in ``unit``.
        unit: Of ``ours``, ``theirs`` and ``floor``.
        rival: Who else; ``None`` if ours is compared only to the floor.
        theirs: As ``ours``.
        ratio: Theirs through ours, from readings of the same round.
        floor: The least that it could be, if that is known.
        goal: What is to be reached, if anything.
    """

    case: str
    method: str
    ours: Quartiles
    unit: str
    rival: str | None = None
    theirs: Quartiles | None = None
    ratio: Quartiles | None = None
    floor: float | None = None
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; ``None`` without one."""
        if self.goal is None:
            return None
        if self.goal.kind == "speed-up":
            return self.achieved >= self.goal.bound
        if self.goal.kind == "floor":
            return self.achieved >= self.goal.bound
        return self.achieved <= self.goal.bound

    @property
    def achieved(self) -> float:
        """What to hold against the goal's bound."""
        assert self.goal is not None
        if self.goal.kind == "value":
            return self.ours.median
        if self.goal.kind == "floor":
            assert self.floor is not None
            return self.floor / self.ours.median
        assert self.ratio is not None
        return self.ratio.median if self.goal.kind == "speed-up" else 1.0 / self.ratio.median


def row_of_times(
    case: str,
    method: str,
    ours: Timing,
    unit: str,
    *,
    rival: str | None = None,
    theirs: Timing | None = None,
    floor: float | None = None,
    goal: Goal | None = None,
) -> Row:
    """A row from readings in seconds; ``floor`` in seconds, too."""
    factor = UNITS[unit]
    return Row(
        case,
        method,
        ours.seconds.times(factor),
        unit,
        rival,
        None if theirs is None else theirs.seconds.times(factor),
        None if theirs is None else ratio(theirs, ours),
        None if floor is None else floor * factor,
        goal,
    )


def paired_floor(ours: Timing, reference: Timing, factor: float = 1.0) -> float:
    """The floor in seconds, so that ours through it is the ratio of readings of the same round.

    Args:
        ours: What is held against the floor.
        reference: Something that was timed in the same rounds: a probe of the memory, a bare step.
        factor: The floor is so many times what the reference takes.
    """
    return ours.seconds.median * factor * ratio(reference, ours).median


def save(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Writes results; those of benchmarks that are not among ``entries`` stay as they are.

    Args:
        path: Of the JSON file; made if need be, folders too.
        entries: By benchmark ``{"machine": ..., "seconds": ..., "rows": [Row, ...]}``.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, entry in entries.items():
        rows = [{**dataclasses.asdict(row), "met": row.met} for row in entry["rows"]]
        known[name] = {**entry, "rows": [_rounded(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def load(path: Path) -> dict[str, dict[str, Any]]:
    """What :func:`save` wrote."""
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text())
    for entry in entries.values():
        entry["rows"] = [_row(row) for row in entry["rows"]]
    return entries


def _row(saved: dict[str, Any]) -> Row:
    fields = {name: value for name, value in saved.items() if name != "met"}
    for name in ("ours", "theirs", "ratio"):
        if fields[name] is not None:
            fields[name] = Quartiles(**fields[name])
    if fields["goal"] is not None:
        fields["goal"] = Goal(**fields["goal"])
    return Row(**fields)


def _rounded(value: Any) -> Any:
    """Four digits: more are noise, and a file that is kept under version control should be small."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value

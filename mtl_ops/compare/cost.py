"""What is found out about a kind of step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["StepCost"]


@dataclass(frozen=True)
class StepCost:
    """What a kind of step costs, forward included and the inner optimizer's step not.

    Attributes:
        name: Of the kind; the first row is the plain sum of the losses, differentiated once.
        options: Arguments of :class:`mtl_ops.MultiTaskOptimizer` that make a step one of this kind.
        seconds: Median time of a step; ``None`` if the kind does not apply.
        ratio: Median of its time by that of the plain sum, in the same round.
        peak: Bytes at most beyond what is there before the step, the new ``.grad`` counted; ``None`` where
            that cannot be measured (on the CPU of anything but Linux).
        angle: Degrees between what it writes and what an exact step does, the mean over eight steps of training;
            ``None`` if there is none, as of a gradient that is 0 or not finite.
        note: Why the kind does not apply, or what was warned of.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    ratio: float | None = None
    peak: int | None = None
    angle: float | None = None
    note: str = ""

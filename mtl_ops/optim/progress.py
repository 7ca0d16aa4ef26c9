"""What an optimizer remembers from call to call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..merging.report import Report

__all__ = ["Progress"]


@dataclass(eq=False)
class Progress:
    """All that changes from step to step, in one object.

    Lightning and Fabric wrap an optimizer in an object that starts with a copy of its attributes,
    and then call ``backward`` of one and ``step`` of the other: what they copy has to be shared.

    Attributes:
        names: The tasks' names; ``None`` if they are not known, or there are none.
        count: T; ``None`` if it is not known.
        steps: How many steps were taken.
        times_skipped: ``(T,)`` int64, see :class:`Report`.
        learnable: The method's own parameters.
        report: Of the last backward.
        unstepped: The reports of the backwards whose gradients are in ``.grad``, not stepped with yet.
        looked_at_graph: Whether the losses' graph was searched for what a user should know.
        unmerged: How many steps were taken with gradients from elsewhere; ``None`` once there was a
            backward, or it was said.
    """

    names: tuple[str, ...] | None = None
    count: int | None = None
    steps: int = 0
    times_skipped: Tensor | None = None
    learnable: tuple[Parameter, ...] = ()
    report: Report = field(default_factory=Report)
    unstepped: tuple[Report, ...] = ()
    looked_at_graph: bool = False
    unmerged: int | None = 0

    def check_count(self, count: int) -> None:
        """Raises a ``ValueError`` if there are not as many losses as tasks."""
        if self.count is not None and count != self.count:
            raise ValueError(
                f"Parameter `losses` should hold {self.count} losses, as at first (None for a task "
                f"that is absent). Found {count}."
            )

    def counter(self, device: torch.device) -> Tensor:
        """:attr:`times_skipped`, which starts at 0."""
        if self.times_skipped is None:
            assert self.count is not None
            self.times_skipped = torch.zeros(self.count, dtype=torch.int64, device=device)
        return self.times_skipped

    def forget_gradients(self) -> None:
        """As ``zero_grad`` does."""
        self.unstepped = ()

    def without_gradients(self) -> Progress:
        """What a copy of the optimizer starts with: not the last losses and measurements."""
        return replace(self, report=Report(), unstepped=())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "names": None if self.names is None else list(self.names),
            "count": self.count,
            "steps": self.steps,
            "times_skipped": self.times_skipped,
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises a ``ValueError`` if a checkpoint is of other tasks."""
        names, count = _tasks_of(state)
        if None not in (self.count, count) and (names, count) != (self.names, self.count):
            raise ValueError(
                f"Parameter `state_dict` should be of the tasks {_shown(self.names, self.count)}. "
                f"Found {_shown(names, count)}."
            )

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restores what :meth:`state_dict` returned, but for the tasks."""
        skipped = state["times_skipped"]
        self.steps = state["steps"]
        known = self.times_skipped
        if skipped is None:
            self.forget_skipped()
        elif known is not None and known.shape == skipped.shape and known.device == device:
            known.copy_(skipped)  # where a captured graph counts
        else:
            self.times_skipped = skipped.to(device, copy=True)

    def forget_skipped(self) -> None:
        """Sets :attr:`times_skipped` to 0, where it is."""
        if self.times_skipped is not None:
            self.times_skipped.zero_()


def _tasks_of(state: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, int | None]:
    names = state["names"]
    return None if names is None else tuple(names), state["count"]


def _shown(names: tuple[str, ...] | None, count: int | None) -> str:
    return f"{count} without names" if names is None else str(list(names))

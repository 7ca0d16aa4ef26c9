"""Groups of tasks that take turns: joint, alternating and hybrid optimization."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..gradients.tasks import Losses, Tasks

__all__ = ["ORDERS", "Groups", "Order", "Turns", "check_groups"]

#: Tasks by name, or by place if the losses have no names.
Groups = Sequence[Sequence[str | int]]

#: Whose turn it is when; a function takes the number of steps and the last losses ``(T,)``.
Order = Literal["fixed", "random", "loss"] | Callable[[int, Tensor], Sequence[int]]

ORDERS = ("fixed", "random", "loss")


class Turns:
    """Which tasks are merged in each turn of a step.

    Attributes:
        losses: ``(T,)`` float64 on the CPU, the last loss of each task; NaN before its first turn.
    """

    def __init__(self, groups: Groups, order: Order, closing_joint: bool) -> None:
        self.groups = tuple(tuple(group) for group in groups)
        self.order = order
        self.closing_joint = closing_joint
        self.losses: Tensor | None = None

    def check(self, names: Sequence[str] | None, count: int) -> None:
        """Checks that each task has a turn.

        Raises:
            ValueError: If a group names an unknown task, or a task is in none.
        """
        known: list[str | int] = list(range(count)) if names is None else list(names)
        for group in self.groups:
            for task in group:
                if task not in known:
                    raise ValueError(
                        f"Parameter `groups` should hold the tasks {known}. Found {task!r}."
                    )
        idle = [task for task in known if not any(task in group for group in self.groups)]
        if idle:
            raise ValueError(
                f"Parameter `groups` should give each task a turn. Found none for {idle[0]!r}."
            )

    def take(
        self,
        closure: Callable[[], Losses],
        read: Callable[[Losses], Tasks],
        update: Callable[[Callable[[], Losses], int], Tensor | None],
        step: int,
        seed: int,
        alone: bool,
    ) -> Losses:
        """All turns of a step.

        Args:
            closure: Evaluates the losses.
            read: Puts them in order.
            update: One step of the inner optimizer with some of them, which it may evaluate again;
                returns their values.
            step: How many steps were taken.
            seed: Of random orders; the same seed and step, the same order.
            alone: Whether no other process may have the tasks that are absent here.

        Returns:
            What the closure returned first.

        Raises:
            ValueError: If groups and tasks do not fit, or a function of the user answers with no order.
        """
        first = _evaluate(closure)
        tasks = read(first)
        self.check(tasks.names, len(tasks.losses))
        for number, members in enumerate(self._turns(tasks, step, seed)):
            if number > 0:
                tasks = read(_evaluate(closure))
            if alone and not any(t in members for t in tasks.present):
                continue
            values = update(functools.partial(_again, [tasks], closure, read, members), step)
            self._remember(values)
        return first

    def _turns(self, tasks: Tasks, step: int, seed: int) -> list[frozenset[int]]:
        """The places of each turn's tasks."""
        count = len(tasks.losses)
        known: Sequence[str | int] = range(count) if tasks.names is None else tasks.names
        place = {task: t for t, task in enumerate(known)}
        members = [frozenset(place[task] for task in group) for group in self.groups]
        turns = [members[k] for k in self._order(step, seed, members, count)]
        return [*turns, frozenset(range(count))] if self.closing_joint else turns

    def _order(
        self, step: int, seed: int, members: Sequence[frozenset[int]], count: int
    ) -> Sequence[int]:
        last = torch.full((count,), torch.nan, dtype=torch.float64)
        if self.losses is not None:
            last = self.losses
        if self.order == "fixed":
            return range(len(members))
        if self.order == "random":
            generator = torch.Generator().manual_seed((seed + step) % 2**63)
            return torch.randperm(len(members), generator=generator).tolist()
        if self.order == "loss":
            means = [float(last[sorted(group)].nanmean()) for group in members]
            # Groups without a loss yet come first; `sorted` keeps the order of equals.
            return sorted(range(len(members)), key=lambda k: (means[k] == means[k], -means[k]))
        answer = list(self.order(step, last.clone()))
        if sorted(answer) != list(range(len(members))):
            raise ValueError(
                f"Parameter `order` should answer with each of the numbers 0 to {len(members) - 1} once. "
                f"Found {answer}."
            )
        return answer

    def _remember(self, losses: Tensor | None) -> None:
        """Takes note of the losses of a turn; waits for the device if the order depends on them."""
        if losses is None or self.order in ("fixed", "random"):
            return
        values = losses.cpu()
        known = values if self.losses is None else self.losses
        self.losses = torch.where(values.isnan(), known, values)

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
        self.losses = None

    def state_dict(self) -> dict[str, Any]:
        """What the next order depends on."""
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        losses = state["losses"]
        self.losses = None if losses is None else losses.cpu().clone()


def check_groups(groups: Groups | None, order: Order, closing_joint: bool) -> None:
    """Checks groups by themselves; :meth:`Turns.check` does against the tasks.

    Raises:
        TypeError: If ``groups`` has the wrong type.
        ValueError: If a group is empty or names a task twice, or there are none to take turns.
    """
    if groups is None:
        for name, value, usual in (
            ("order", order, "fixed"),
            ("closing_joint", closing_joint, False),
        ):
            if value != usual:
                raise ValueError(
                    f"Parameter `{name}` should be used with `groups`. "
                    f"Found `{name} = {value!r}` and `groups = None`."
                )
        return
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        raise TypeError(
            f"Parameter `groups` should be a sequence of groups of tasks. Found {type(groups).__name__}."
        )
    for group in groups:
        if isinstance(group, str) or not isinstance(group, Sequence):
            raise TypeError(
                f"Parameter `groups` should hold sequences of tasks. Found {group!r} among them."
            )
        if not group or len(set(group)) != len(group):
            raise ValueError(
                f"Parameter `groups` should hold groups that name each of their tasks once. Found {list(group)}."
            )
    if not groups:
        raise ValueError("Parameter `groups` should hold at least one group. Found none.")


def _again(
    known: list[Tasks],
    closure: Callable[[], Losses],
    read: Callable[[Losses], Tasks],
    members: frozenset[int],
) -> Losses:
    """The losses of a turn: those that are known already, then new ones."""
    tasks = known.pop() if known else read(_evaluate(closure))
    own = [loss if t in members else None for t, loss in enumerate(tasks.losses)]
    return own if tasks.names is None else dict(zip(tasks.names, own, strict=True))


def _evaluate(closure: Callable[[], Losses]) -> Losses:
    with torch.enable_grad():
        return closure()

"""Hard sharing in part: which tasks share a level is chosen level by level."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from .base import Criterion, MultiTaskModel

__all__ = ["Level", "Share", "SharedBackbone"]

#: Where tasks share: one of these points, or for each level the groups of tasks that share it.
Share = Literal["all", "bottom", "middle", "output"] | Sequence[Sequence[Sequence[str]]]
#: A module, or, where tasks differ in more than weights, the module of each task that passes here.
Level = nn.Module | Mapping[str, nn.Module]


class SharedBackbone(MultiTaskModel):
    """A sequence of levels, each shared by all tasks, by groups of them, or by none.

    ``x_{t,l} = f_{g(t,l),l}(x_{t,l-1})`` and ``y_t = h_t(x_{t,L})``, where g(t, l) is the group of
    task t at level l. A module runs once for all tasks that bring it the same input.

    Args:
        encoder: A sequence of modules, the levels from low to high; the children of an
            ``nn.Sequential`` are its levels, any other module is one. A level may also be a dict by
            task: tasks that name the same module share it there, and a task that is not named
            skips the level.
        heads: For each task a module; tasks that name the same module share it.
        criteria: For each task a function ``(output, target) -> loss``, a 0-d tensor.
        share: ``"all"``: every level. ``"bottom"``: the first level, so that each task has its own
            middle and output. ``"middle"``: all levels but the first, so that each task has its own
            entry and output. ``"output"``: the head alone, which must be the same module for all
            tasks. Or, for layered sharing, for each level a list of groups of tasks, as
            ``[[["a", "b", "c"]], [["a", "b"], ["c"]]]``; levels that are dicts are left out of it,
            since they say it themselves.

    The first group of a level uses the given module, every other a copy of it. All start with the
    same weights, so that a pretrained encoder stays pretrained for all tasks.

    Raises:
        ValueError: If there are no levels, too few for where to share, or ``share`` is unknown or
            does not name every task once at each level; if a task's name has a plus sign; or as
            :class:`MultiTaskModel`.

    Caruana, "Multitask Learning", Machine Learning 28, 1997; layered sharing: Søgaard and Goldberg,
    "Deep multi-task learning with low level tasks supervised at lower layers", ACL 2016.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> encoder = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        >>> heads = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)}
        >>> mse = nn.functional.mse_loss
        >>> model = SharedBackbone(encoder, heads, {"a": mse, "b": mse}, share="bottom")
        >>> model.groups
        ((('a', 'b'),), (('a',), ('b',)))
        >>> {task: tuple(output.shape) for task, output in model(torch.zeros(5, 3)).items()}
        {'a': (5, 1), 'b': (5, 2)}
    """

    def __init__(
        self,
        encoder: nn.Module | Sequence[Level],
        heads: Mapping[str, nn.Module],
        criteria: Mapping[str, Criterion],
        *,
        share: Share = "all",
    ) -> None:
        super().__init__(heads, criteria)
        for task in self.tasks:
            if "+" in task:  # It joins the names of a group, and "a+b" would be two groups'.
                raise ValueError(
                    f"Parameter `heads` should name tasks without a plus sign. Found {task!r}."
                )
        levels = _levels(encoder)
        plain = [level for level in levels if isinstance(level, nn.Module)]
        groups = iter(_groups(share, self.tasks, len(levels), len(plain)))
        if share == "output" and len({id(head) for head in heads.values()}) > 1:
            raise ValueError(
                'Parameter `heads` should be the same module for all tasks with `share = "output"`. '
                f"Found {len({id(head) for head in heads.values()})} modules."
            )
        routes = [
            _spread(level, next(groups)) if isinstance(level, nn.Module) else dict(level)
            for level in levels
        ]
        for place, route in enumerate(routes):
            if not set(route) <= set(self.tasks):
                raise ValueError(
                    f"Parameter `encoder` should name only the tasks {list(self.tasks)}. "
                    f"Found {sorted(set(route) - set(self.tasks))} at level {place}."
                )
        #: For each level the groups of tasks that share it.
        self.groups = tuple(_sharing(route) for route in routes)
        self.levels = nn.ModuleList(
            nn.ModuleDict({_name(group): route[group[0]] for group in parts})
            for route, parts in zip(routes, self.groups, strict=True)
        )

    def features(self, input: Any, tasks: Sequence[str]) -> dict[str, Any]:
        """What comes out of the last level."""
        current = dict.fromkeys(tasks, input)
        for level, groups in zip(self.levels, self.groups, strict=True):
            after = dict(current)
            for group in groups:
                module = level.get_submodule(_name(group))
                done: dict[int, Any] = {}
                for task in group:
                    if task in current:
                        # Tasks that came here on the same way bring the very same tensor.
                        before = current[task]
                        if id(before) not in done:
                            done[id(before)] = module(before)
                        after[task] = done[id(before)]
            current = after
        return current


def _levels(encoder: nn.Module | Sequence[Level]) -> list[Level]:
    """The levels of an encoder, from low to high."""
    if isinstance(encoder, nn.Module) and not isinstance(encoder, nn.Sequential | nn.ModuleList):
        return [encoder]
    levels: list[Level] = list(encoder)
    if not levels:
        raise ValueError("Parameter `encoder` should hold at least one level. Found none.")
    return levels


def _groups(
    share: Share, tasks: tuple[str, ...], levels: int, plain: int
) -> list[Sequence[Sequence[str]]]:
    """For each level that is a plain module the groups of tasks that share it."""
    every, single = [tasks], [(task,) for task in tasks]
    if isinstance(share, str):
        if share not in get_args(get_args(Share)[0]):
            raise ValueError(
                'Parameter `share` should be "all", "bottom", "middle", "output" or a list of groups '
                f"for each level. Found `share = {share!r}`."
            )
        if share in ("bottom", "middle") and levels < 2:
            raise ValueError(
                f'Parameter `encoder` should have at least two levels with `share = "{share}"`. '
                f"Found {levels}."
            )
        if share != "all" and plain < levels:
            raise ValueError(
                'Parameter `share` should be "all" or a list where levels are dicts by task. '
                f"Found `share = {share!r}`."
            )
        first: Sequence[Sequence[str]] = every if share in ("all", "bottom") else single
        rest: Sequence[Sequence[str]] = every if share in ("all", "middle") else single
        return [first, *[rest] * (levels - 1)][:plain]
    if len(share) != plain:
        raise ValueError(
            f"Parameter `share` should hold the groups of {plain} levels. Found {len(share)}."
        )
    for place, parts in enumerate(share):
        named = [task for group in parts for task in group]
        if sorted(named) != sorted(tasks):
            raise ValueError(
                f"Parameter `share` should name each of the tasks {list(tasks)} once at each level. "
                f"Found {named} at level {place}."
            )
    return list(share)


def _spread(module: nn.Module, groups: Sequence[Sequence[str]]) -> dict[str, nn.Module]:
    """The module for the first group, and a copy for every other."""
    route: dict[str, nn.Module] = {}
    for place, group in enumerate(groups):
        route.update(dict.fromkeys(group, module if place == 0 else copy.deepcopy(module)))
    return route


def _sharing(route: Mapping[str, nn.Module]) -> tuple[tuple[str, ...], ...]:
    """The tasks that have the same module, together."""
    groups: dict[int, list[str]] = {}
    for task, module in route.items():
        groups.setdefault(id(module), []).append(task)
    return tuple(tuple(group) for group in groups.values())


def _name(group: Sequence[str]) -> str:
    """What a group is called in the state dict."""
    return "+".join(group)

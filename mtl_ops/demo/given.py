"""What the options of ``mtl-ops train`` may hold; anything else is one sentence and exit code 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import methods
from .config import ALL
from .options import read_names, refuse, split
from .spec import parse, split_methods

__all__ = ["read_choice", "read_device", "read_groups", "read_methods", "read_seeds", "read_tasks"]

#: One group for each task.
ALTERNATING = "alternating"


def read_choice(option: str, value: str | None, choices: Sequence[str]) -> str | None:
    """One of several."""
    names = read_names(option, None if value is None else [value], choices)
    return None if names is None else names[0]


def read_methods(values: list[str] | None) -> tuple[str, ...] | None:
    """Specifications of methods, whose names are known."""
    if values is None:
        return None
    specs = split_methods(values)
    try:
        names = [parse(spec)[0] for spec in specs]
    except ValueError as error:
        refuse("--method", str(error))
    read_names("--method", names, [ALL, *methods.available()])
    return specs


def read_tasks(values: list[str], choices: Sequence[str]) -> tuple[str, ...] | None:
    names = read_names("--tasks", values, choices)
    if names is not None and len(names) < 2:
        known = ", ".join(choices)
        refuse("--tasks", f"one task cannot conflict; name two or more of {known}.")
    return names


def read_groups(value: str, tasks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """``"a+b,c"`` to ``(("a", "b"), ("c",))``, or ``"alternating"`` to one group for each task."""
    if value == ALTERNATING:
        return tuple((task,) for task in tasks)
    groups = tuple(split([group.replace("+", ",")]) for group in split([value]))
    read_names("--groups", [task for group in groups for task in group], tasks)
    idle = [task for task in tasks if not any(task in group for group in groups)]
    if idle:
        refuse("--groups", f"'{idle[0]}' is in no group, so it would never be trained.")
    return groups


def read_seeds(values: list[str] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    seeds = split(values)
    for seed in seeds or [""]:
        # scikit-learn takes no seed beyond 32 bits.
        if not (seed.isascii() and seed.isdigit() and int(seed) < 2**32):
            refuse("--seed", f"'{seed}' is not an integer from 0 to {2**32 - 1}.")
    return tuple(dict.fromkeys(int(seed) for seed in seeds))


def read_device(value: str | None) -> str | None:
    if value is None:
        return None
    choices = ["cpu"]
    if torch.cuda.is_available():
        choices += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        choices.append("mps")
    if value not in choices:
        refuse("--device", f"'{value}' is not one of {', '.join(choices)} on this machine.")
    return value

"""Checks of what a user hands in: names of tasks, and parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from .storage import is_dtensor

__all__ = ["check_names", "check_owned", "check_plain"]


def check_names(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks' names."""
    if isinstance(tasks, str) or not all(isinstance(name, str) for name in tasks):
        raise TypeError(f"Parameter `tasks` should be a sequence of names. Found {tasks!r}.")
    names = tuple(tasks)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"Parameter `tasks` should name at least one task, and each once. Found {names!r}."
        )
    return names


def check_owned(
    name: str, params: Iterable[Tensor], owned: Iterable[Tensor], owner: str
) -> list[Tensor]:
    """Some of the parameters that are ``owned``, given as the argument ``name``."""
    if isinstance(params, Tensor):
        raise TypeError(f"Parameter `{name}` should be an iterable of parameters. Found a tensor.")
    known = {id(param) for param in owned}
    chosen = list(params)
    for place, param in enumerate(chosen):
        if id(param) not in known:
            raise ValueError(
                f"Parameter `{name}` should hold parameters of {owner}. Found another at place {place}."
            )
    return chosen


def check_plain(params: Iterable[Tensor]) -> None:
    """Refuses parameters that are spread over processes.

    Raises:
        TypeError: If one is a DTensor, as those of ``fully_shard``.
    """
    for param in params:
        if is_dtensor(param):
            raise TypeError(
                "Parameter `params` should hold tensors that are whole in every process (`MultiTaskOptimizer` takes "
                f"others). Found a DTensor of shape {tuple(param.shape)}."
            )

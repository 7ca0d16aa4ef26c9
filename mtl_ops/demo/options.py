"""What the commands have in common: lists of names, refusals, and the number of threads."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
import typer
from rich.console import Console

__all__ = ["default", "for_results", "one_thread", "read_names", "refuse", "split"]


def default(values: Sequence[object]) -> str:
    """For the end of a help text."""
    return f"Default: {', '.join(map(str, values))}"


def for_results(width: int) -> Console:
    """What tables are printed on; ``width`` is for files and pipes, where nobody says how wide."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = width
    return console


def read_names(
    option: str, values: list[str] | None, choices: Sequence[str]
) -> tuple[str, ...] | None:
    """Names that were given one by one or with commas, each once."""
    if values is None:
        return None
    names = split(values)
    for name in names or [""]:
        if name not in choices:
            close = difflib.get_close_matches(name, choices, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "."
            refuse(option, f"'{name}' is not one of {', '.join(choices)}{hint}")
    return names


def split(values: list[str]) -> tuple[str, ...]:
    """``["a,b", "c", "a"]`` to ``("a", "b", "c")``."""
    parts = (part.strip() for value in values for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def refuse(option: str, reason: str) -> NoReturn:
    """One sentence and exit code 2."""
    raise typer.BadParameter(reason, param_hint=option)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads add differently from one: the outcome must not depend on the machine's cores.

    So small a model would gain little from them anyway, and lose much on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

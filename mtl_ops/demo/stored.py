"""What ``config.json`` may hold; anything else was not written by this command."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch

from .. import examples, methods
from ..examples.base import SIZES
from ..optim.turns import ORDERS
from .config import ALL, Config
from .precision import PRECISIONS
from .spec import parse

__all__ = ["read_options"]


def read_options(values: Any) -> Config:
    """The options from the values of :meth:`Config.to_json`.

    Raises:
        ValueError: If they are something else; the message goes on after "File x".
    """
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Config)}:
        raise ValueError("holds no options of this experiment")
    for name, value in values.items():
        if not _CHECKS[name](value):
            raise ValueError(f"holds no options of this experiment: `{name} = {_short(value)}`")
    return Config.from_json(values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, str) and torch.device(value).type in ("cpu", "cuda", "mps")
    except RuntimeError:
        return False


def _is_method(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse(value)[0] in (ALL, *methods.available())
    except ValueError:
        return False


def _list_of(check: Callable[[Any], bool], least: int = 1) -> Callable[[Any], bool]:
    """A list of different values, of each of which the check holds."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) >= least
            and all(check(item) for item in value)
            and not any(item in value[:place] for place, item in enumerate(value))
        )

    return holds


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "methods": _or_none(_list_of(_is_method)),
    "seeds": _list_of(_is_seed),
    "tasks": _list_of(_is_text, least=2),
    "epochs": _is_count,
    "batch_size": _is_count,
    "learning_rate": lambda value: type(value) is float and 0 < value < math.inf,
    "device": _is_device,
    "precision": _one_of(*PRECISIONS),
    "example": _one_of(*examples.names()),
    "data": _or_none(_is_text),
    "size": _one_of(*SIZES),
    "architecture": _or_none(_one_of(*examples.architectures())),
    "groups": _or_none(_list_of(_list_of(_is_text))),
    "order": _one_of(*ORDERS),
    "closing_joint": lambda value: isinstance(value, bool),
}

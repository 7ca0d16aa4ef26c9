"""Methods as they are written on the command line: ``name``, or ``name:c=0.2,other=1``."""

from __future__ import annotations

import ast
from typing import Any

from .. import methods

__all__ = ["make_method", "parse", "split_methods"]


def split_methods(values: list[str]) -> tuple[str, ...]:
    """Specifications that were given one by one or with commas, each once.

    A comma inside brackets separates nothing, and what holds a ``=`` and no ``:`` is one more
    argument of the method before it.

    Example:
        >>> split_methods(["sum,cagrad:c=0.2,rescale=1", "constant:weights=[1, 2]", "sum"])
        ('sum', 'cagrad:c=0.2,rescale=1', 'constant:weights=[1,2]')
    """
    found: list[str] = []
    for value in values:
        for place, part in enumerate(_split_outside_brackets(value)):
            if place and found and "=" in part and ":" not in part and ":" in found[-1]:
                found[-1] += f",{part}"
            else:
                found.append(part)
    return tuple(dict.fromkeys(found))


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments; an argument is a Python literal, or else a string.

    Raises:
        ValueError: If an argument is not of the form ``name=value``.

    Example:
        >>> parse("cagrad:c=0.2,rescale=1")
        ('cagrad', {'c': 0.2, 'rescale': 1})
    """
    name, _, rest = spec.partition(":")
    given: dict[str, Any] = {}
    for part in _split_outside_brackets(rest):
        key, equals, value = part.partition("=")
        if not (equals and key.isidentifier() and value):
            raise ValueError(
                f"Arguments of a method should be written as 'cagrad:c=0.2'. Found '{spec}'."
            )
        given[key] = _literal(value)
    return name, given


def make_method(spec: str) -> methods.Method:
    """The method.

    Raises:
        ValueError: If there is none of that name, or an argument is out of range.
        TypeError: If it has other arguments.
    """
    name, given = parse(spec)
    return methods.get(name, **given)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _split_outside_brackets(text: str) -> list[str]:
    """Parts between commas without spaces; an empty part is none."""
    parts, depth = [""], 0
    for letter in text.replace(" ", ""):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part]

"""What is computed when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

__all__ = ["Lazy"]

T = TypeVar("T")


class Lazy(Generic[T]):
    """As ``functools.cached_property`` of Python 3.12, without the lock of those before, which takes longer than most
    of what is computed in a step.

    Args:
        function: Computes it, from the object.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, thing: None, owner: type) -> Lazy[T]: ...

    @overload
    def __get__(self, thing: object, owner: type) -> T: ...

    def __get__(self, thing: object | None, owner: type) -> Lazy[T] | T:
        if thing is None:
            return self
        value = vars(thing)[self._name] = self._function(thing)
        return value

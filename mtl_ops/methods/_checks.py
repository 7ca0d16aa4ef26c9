"""Checks of the parameters of methods, one sentence an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..ops.capture import capturing

__all__ = [
    "PerTask",
    "closed_share",
    "finite",
    "integer",
    "non_negative",
    "one_of",
    "only",
    "positive",
    "share",
    "squares",
    "truth",
]


Sign = Literal["any", "not negative", "some", "positive"]


def finite(name: str, value: float) -> float:
    """The value, if it is a finite number."""
    return _number(name, value, "a number")


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0."""
    if not _number(name, value, "a positive number") > 0.0:
        raise ValueError(f"Parameter `{name}` should be positive. Found `{name} = {value}`.")
    return value


def non_negative(name: str, value: float) -> float:
    """The value, if it is a finite number not below 0."""
    if not _number(name, value, "a number") >= 0.0:
        raise ValueError(f"Parameter `{name}` should not be negative. Found `{name} = {value}`.")
    return value


def share(name: str, value: float) -> float:
    """The value, if it is in [0, 1)."""
    if not 0.0 <= _number(name, value, "a number") < 1.0:
        raise ValueError(f"Parameter `{name}` should be in [0, 1). Found `{name} = {value}`.")
    return value


def closed_share(name: str, value: float) -> float:
    """The value, if it is in [0, 1]."""
    if not 0.0 <= _number(name, value, "a number") <= 1.0:
        raise ValueError(f"Parameter `{name}` should be in [0, 1]. Found `{name} = {value}`.")
    return value


def integer(name: str, value: int, least: int) -> int:
    """The value, if it is an integer not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Parameter `{name}` should be an integer. Found `{name} = {value!r}`.")
    if value < least:
        raise ValueError(
            f"Parameter `{name}` should be at least {least}. Found `{name} = {value}`."
        )
    return value


def one_of(name: str, value: Any, options: Iterable[Any]) -> Any:
    """The value, if it is one of the options."""
    known = list(options)
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(
            f"Parameter `{name}` should be one of {listed}. Found `{name} = {value!r}`."
        )
    return value


def truth(name: str, value: bool) -> bool:
    """The value, if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"Parameter `{name}` should be True or False. Found `{name} = {value!r}`.")
    return value


def squares(name: str, tensor: Any, like: Tensor) -> Tensor:
    """A ``(T, T)`` or ``(S, T, T)`` tensor as float64 of the shape of ``like`` ``(S, T, T)``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"Parameter `{name}` should be a tensor. Found {type(tensor).__name__}.")
    if tensor.shape not in (like.shape, like.shape[1:]) or tensor.numel() != like.numel():
        raise ValueError(
            f"Parameter `{name}` should have the shape of the Gram matrix, {tuple(like.shape)}. "
            f"Found shape {tuple(tensor.shape)}."
        )
    return tensor.detach().to(like.device, torch.float64).reshape(like.shape).contiguous()


def only(given: Mapping[str, Any], *names: str) -> None:
    """Refuses what a method can do nothing with.

    Raises:
        TypeError: If anything but ``names`` is given.
    """
    unknown = sorted(set(given) - set(names))
    if unknown:
        known = " or ".join(f"`{name}`" for name in names) or "nothing but gradients and losses"
        raise TypeError(f"A method like this should be given {known}. Found `{unknown[0]}`.")


class PerTask:
    """One number for each task, on any device.

    They are made once for each device, by kernels: a copy from the CPU would wait for the device.

    Args:
        name: Of the parameter, for messages.
        values: T finite numbers.
        sign: Whether they may have ``"any"`` sign, have to be ``"positive"`` or ``"not negative"``, or
            ``"some"`` of them positive and none negative.

    Raises:
        TypeError: If ``values`` is not a sequence of numbers or a tensor.
        ValueError: If ``values`` is empty, not one-dimensional, not finite or out of range.
    """

    def __init__(self, name: str, values: Sequence[float] | Tensor, sign: Sign = "any") -> None:
        self.name = name
        try:
            self._tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"Parameter `{name}` should be a sequence of numbers. Found `{name} = {values!r}`."
            ) from None
        if self._tensor.dim() != 1 or not len(self._tensor) or not self._tensor.isfinite().all():
            raise ValueError(
                f"Parameter `{name}` should hold one finite number for each task. "
                f"Found `{name} = {values!r}`."
            )
        wrong = {
            "any": False,
            "not negative": bool((self._tensor < 0).any()),
            "some": bool((self._tensor < 0).any()) or not bool(self._tensor.any()),
            "positive": not bool((self._tensor > 0).all()),
        }
        if wrong[sign]:
            what = "positive numbers" if sign == "positive" else "positive numbers and zeros"
            what = "numbers that are not negative" if sign == "not negative" else what
            raise ValueError(f"Parameter `{name}` should hold {what}. Found `{name} = {values!r}`.")
        self._tensor = self._tensor.clone()
        self._on: dict[str, Tensor] = {}

    @property
    def total(self) -> float:
        """Their sum."""
        return float(self._tensor.sum())

    def on(self, device: torch.device, tasks: int) -> Tensor:
        """``(T,)`` float64.

        Raises:
            ValueError: If there are not T of them.
        """
        if len(self._tensor) != tasks:
            raise ValueError(
                f"Parameter `{self.name}` should hold one number for each of {tasks} tasks. "
                f"Found {len(self._tensor)} numbers."
            )
        if str(device) in self._on:
            return self._on[str(device)]
        there = filled(self._tensor, device)
        if not capturing():  # what a graph fills holds nothing before it is replayed
            self._on[str(device)] = there
        return there

    @classmethod
    def on_gram(cls, numbers: PerTask | None, gram: Tensor) -> Tensor | None:
        """The numbers, if there are any, for a Gram matrix ``(S, T, T)``."""
        return None if numbers is None else numbers.on(gram.device, gram.shape[-1])

    def __len__(self) -> int:
        return len(self._tensor)

    def __repr__(self) -> str:
        return repr(self._tensor.tolist())


def filled(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers ``(T,)`` of the host on a device, by kernels that each have one as an argument.

    A copy would wait for the device, and could not be captured into a graph.
    """
    if device.type == "cpu":
        return numbers
    return torch.stack(
        [torch.full((), one, dtype=numbers.dtype, device=device) for one in numbers.tolist()]
    )


def _number(name: str, value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Parameter `{name}` should be {what}. Found `{name} = {value!r}`.")
    if not math.isfinite(value):
        raise ValueError(f"Parameter `{name}` should be finite. Found `{name} = {value}`.")
    return value

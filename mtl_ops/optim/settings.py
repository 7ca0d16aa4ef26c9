"""Every option of the optimizer in one record, checked in one place."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..distributed import Distributed
from ..gradients.checks import check_names, check_owned
from ..gradients.parameters import Granularity
from ..gradients.source import Gradients
from ..merging.rules import (
    Nonfinite,
    Normalise,
    Rules,
    TaskWeights,
    check_task_weights,
    read_task_weights,
)
from ..methods import Method, resolve
from ..step.averaged import FreshOrder, FreshTasks
from .turns import ORDERS, Groups, Order, check_groups

__all__ = ["Settings", "make_settings"]


@dataclass(frozen=True)
class Settings:
    """What the user chose; each field as the argument of :class:`mtl_ops.MultiTaskOptimizer`.

    ``shared`` and ``gram_on`` are lists of the optimizer's parameters here, and a ``grad_scaler`` that
    does nothing is ``None``. :func:`make_settings` checks every value by itself,
    :mod:`mtl_ops.optim.facts` whether they go together.
    """

    method: Method
    tasks: tuple[str, ...] | None = None
    task_weights: TaskWeights | None = None
    max_task_norm: float | None = None
    clip_value: float | None = None
    max_norm: float | None = None
    nonfinite: Nonfinite = "skip_task"
    normalise: Normalise = "none"
    keep_scale: bool = False
    granularity: Granularity = "model"
    shared: Sequence[Tensor] | None = None
    gram_on: Literal["features"] | Sequence[Tensor] | None = None
    weights_every: int = 1
    fresh: FreshTasks | None = None
    fresh_order: FreshOrder = "round_robin"
    grad_scaler: torch.amp.GradScaler | None = None
    grad_dtype: torch.dtype | None = None
    memory: Literal["stream"] | None = None
    batched: bool = False
    gradients: Gradients = "dense"
    groups: Groups | None = None
    order: Order = "fixed"
    closing_joint: bool = False
    distributed: Distributed | None = "auto"
    process_group: Any = None
    module: torch.nn.Module | None = None
    generator: torch.Generator | None = None

    @functools.cached_property
    def rules(self) -> Rules:
        """Clipping, normalising, and what to do about gradients that are not finite."""
        norms = self.max_task_norm, self.clip_value, self.max_norm
        return Rules(*norms, self.nonfinite, self.normalise, self.keep_scale)

    def compared(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """What has to be the same in all processes, in types that JSON has; parameters by their places.

        Not what belongs to a process: its group, module and generator.
        """
        place = {id(param): number for number, param in enumerate(params)}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("process_group", "module", "generator"):
            del values[name]
        for name in ("shared", "gram_on"):
            if values[name] is not None and not isinstance(values[name], str):
                values[name] = [place[id(param)] for param in values[name]]
        for name in ("task_weights", "order", "fresh"):
            if callable(values[name]):
                values[name] = "a function"
        values["method"] = self.method.name
        # without the addresses of functions, which are another in every process
        values["arguments of method"] = re.sub(r" at 0x[0-9a-f]+", "", repr(self.method))
        values["grad_scaler"] = self.grad_scaler is not None
        values["grad_dtype"] = None if self.grad_dtype is None else str(self.grad_dtype)
        return values


def make_settings(
    method: str | Method,
    params: Sequence[Tensor],
    owner: str = "the optimizer",
    **options: Any,
) -> Settings:
    """Checks each option by itself.

    Args:
        method: A name or a method.
        params: The parameters.
        owner: How messages call what holds them.
        **options: As of :class:`Settings`.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
    """
    read: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        read[name] = value if check is None else check(name, value, Owned(params, owner))
    settings = Settings(resolve(method), **read)
    _ = settings.rules  # checks the thresholds
    check_groups(settings.groups, settings.order, settings.closing_joint)
    if settings.fresh_order != "round_robin" and not isinstance(settings.fresh, int):
        raise ValueError(
            "Parameter `fresh_order` should be given with a number of tasks in `fresh`. "
            f"Found `fresh_order = {settings.fresh_order!r}` and `fresh` {_called(settings.fresh)}."
        )
    weights, names = settings.task_weights, settings.tasks
    if names is not None and not callable(weights):
        read_task_weights(weights, names, len(names), 0)
    return settings


# ---- one check an option: the name, what was found, the optimizer's parameters; the value ----------


@dataclass(frozen=True)
class Owned:
    """Parameters, and how messages call what holds them."""

    params: Sequence[Tensor]
    owner: str


_Check = Callable[[str, Any, Owned], Any]


def _one_of(words: Sequence[str], none: bool = False) -> _Check:
    def check(name: str, value: Any, _: Owned) -> Any:
        if (none and value is None) or (isinstance(value, str) and value in words):
            return value
        raise ValueError(
            f"Parameter `{name}` should be {'None or ' if none else ''}one of {', '.join(words)}. "
            f"Found `{name} = {value!r}`."
        )

    return check


def _instance(kind: Callable[[], type], called: str) -> _Check:
    """None or an object; the type is asked for late, as not every build of torch has it."""

    def check(name: str, value: Any, _: Owned) -> Any:
        if value is not None and not isinstance(value, kind()):
            raise TypeError(
                f"Parameter `{name}` should be {called} or None. Found {type(value).__name__}."
            )
        return value

    return check


def _flag(name: str, value: Any, _: Owned) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Parameter `{name}` should be True or False. Found `{name} = {value!r}`.")
    return value


def _names(_: str, value: Any, __: Owned) -> tuple[str, ...] | None:
    return None if value is None else check_names(value)


def _weights(_: str, value: Any, __: Owned) -> Any:
    check_task_weights(value)
    return value


def _params(name: str, value: Any, owned: Owned) -> list[Tensor] | None:
    if isinstance(value, str) or not isinstance(value, (Iterable, type(None))):
        raise TypeError(
            f"Parameter `{name}` should be an iterable of parameters. Found {type(value).__name__}."
        )
    return None if value is None else check_owned(name, value, owned.params, owned.owner)


def _measured_on(name: str, value: Any, owned: Owned) -> Any:
    chosen = value if value is None or isinstance(value, str) else _params(name, value, owned)
    if chosen is not None and (chosen != "features" if isinstance(chosen, str) else not chosen):
        raise ValueError(
            f'Parameter `{name}` should be None, "features" or parameters. '
            f"Found `{name} = {chosen!r}`."
        )
    return chosen


def _positive_integer(name: str, value: Any, _: Owned) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"Parameter `{name}` should be a positive integer. Found `{name} = {value!r}`."
        )
    return value


def _fresh(name: str, value: Any, owned: Owned) -> Any:
    return value if value is None or callable(value) else _positive_integer(name, value, owned)


def _called(value: Any) -> str:
    return "a function" if callable(value) else f"= {value!r}"


def _scaler(name: str, value: Any, _: Owned) -> torch.amp.GradScaler | None:
    if value is not None and not isinstance(value, torch.amp.GradScaler):
        raise TypeError(
            f"Parameter `{name}` should be a torch.amp.GradScaler. Found {type(value).__name__}."
        )
    return value if value is not None and value.is_enabled() else None


def _dtype(name: str, value: Any, _: Owned) -> torch.dtype | None:
    if value is None:
        return None
    if not isinstance(value, torch.dtype):
        raise TypeError(
            f"Parameter `{name}` should be a torch.dtype or None. Found {type(value).__name__}."
        )
    if value not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(
            f"Parameter `{name}` should be float32, float64, bfloat16 or float16. "
            f"Found `{name} = {value}`."
        )
    return value


def _stream(name: str, value: Any, _: Owned) -> Any:
    if value is not None and value != "stream":
        raise ValueError(
            f'Parameter `{name}` should be None or "stream". Found `{name} = {value!r}`.'
        )
    return value


def _order(name: str, value: Any, _: Owned) -> Any:
    if not callable(value) and value not in ORDERS:
        raise ValueError(
            f"Parameter `{name}` should be a function or one of {', '.join(ORDERS)}. "
            f"Found `{name} = {value!r}`."
        )
    return value


_CHECKS: dict[str, _Check] = {
    "tasks": _names,
    "task_weights": _weights,
    "granularity": _one_of(get_args(Granularity)),
    "shared": _params,
    "gram_on": _measured_on,
    "weights_every": _positive_integer,
    "fresh": _fresh,
    "fresh_order": _one_of(get_args(FreshOrder)),
    "grad_scaler": _scaler,
    "grad_dtype": _dtype,
    "memory": _stream,
    "batched": _flag,
    "gradients": _one_of(get_args(Gradients)),
    "order": _order,
    "closing_joint": _flag,
    "distributed": _one_of(get_args(Distributed), none=True),
    "process_group": _instance(lambda: torch.distributed.ProcessGroup, "a process group"),
    "module": _instance(lambda: torch.nn.Module, "a module"),
    "generator": _instance(lambda: torch.Generator, "a torch.Generator"),
}

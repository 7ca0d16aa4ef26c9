"""What is the same for every method: clipping, normalising, weights of tasks, gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "Nonfinite",
    "Normalise",
    "Rules",
    "TaskWeights",
    "check_task_weights",
    "read_task_weights",
]

Nonfinite = Literal["skip_task", "skip_step", "raise", "propagate"]

#: What each gradient is divided by before it is weighed, see :mod:`mtl_ops.merging.normalised`.
Normalise = Literal["none", "l2", "loss", "loss+"]

#: Weights by name or in order, or a function of the number of steps taken so far.
TaskWeights = (
    Mapping[str, float] | Sequence[float] | Callable[[int], Mapping[str, float] | Sequence[float]]
)


@dataclass(frozen=True)
class Rules:
    """Thresholds and choices, checked.

    Raises:
        ValueError: If a threshold is not positive, ``nonfinite`` or ``normalise`` is unknown, or ``keep_scale`` has
            nothing to keep.
        TypeError: If a threshold is not a number, or ``keep_scale`` not a truth value.
    """

    max_task_norm: float | None = None
    clip_value: float | None = None
    max_norm: float | None = None
    nonfinite: Nonfinite = "propagate"
    normalise: Normalise = "none"
    keep_scale: bool = False

    def __post_init__(self) -> None:
        for name in ("max_task_norm", "clip_value", "max_norm"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f"Parameter `{name}` should be a number or None. Found `{name} = {value!r}`."
                )
            if not value > 0.0:
                raise ValueError(
                    f"Parameter `{name}` should be positive. Found `{name} = {value}`."
                )
        if self.nonfinite not in get_args(Nonfinite):
            raise ValueError(
                f"Parameter `nonfinite` should be one of {', '.join(get_args(Nonfinite))}. "
                f"Found `nonfinite = {self.nonfinite!r}`."
            )
        if not isinstance(self.normalise, str) or self.normalise not in get_args(Normalise):
            raise ValueError(
                f"Parameter `normalise` should be one of {', '.join(get_args(Normalise))}. "
                f"Found `normalise = {self.normalise!r}`."
            )
        if not isinstance(self.keep_scale, bool):
            raise TypeError(
                "Parameter `keep_scale` should be True or False. "
                f"Found `keep_scale = {self.keep_scale!r}`."
            )
        if self.keep_scale and self.normalise == "none":
            raise ValueError(
                "Parameter `keep_scale` should be False without `normalise`, as nothing changes the scale. "
                "Found `keep_scale = True` and `normalise = 'none'`."
            )

    @property
    def per_task(self) -> bool:
        """Whether the gradient of each single task is needed whatever the method."""
        return self.max_task_norm is not None or self.clip_value is not None

    @property
    def divides_by_losses(self) -> bool:
        """Whether gradients are divided by the tasks' losses."""
        return self.normalise in ("loss", "loss+")


def check_task_weights(weights: TaskWeights | None) -> None:
    """Checks what can be checked while the tasks are not known.

    Raises:
        TypeError: As :func:`read_task_weights`.
        ValueError: As :func:`read_task_weights`.
    """
    if isinstance(weights, Mapping):
        # all that it names, and one more with the weight 1
        read_task_weights(weights, [*weights, ""], len(weights) + 1, 0)
    elif weights is not None and not callable(weights):
        known = isinstance(weights, Sequence)
        read_task_weights(weights, None, len(weights) if known else 0, 0)


def read_task_weights(
    weights: TaskWeights | None, names: Sequence[str] | None, tasks: int, step: int
) -> list[float]:
    """The weight of each of T tasks, in order; 1 where nothing is said.

    Raises:
        TypeError: If a weight is not a number.
        ValueError: If there are not T weights, a name is unknown, a weight is negative or not
            finite, or all are 0.
    """
    if weights is None:
        return [1.0] * tasks
    values = weights(step) if callable(weights) else weights
    if isinstance(values, Mapping):
        if names is None:
            raise ValueError(
                "Parameter `task_weights` should be a sequence if the losses have no names. "
                f"Found names {list(values)}."
            )
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ValueError(
                f"Parameter `task_weights` should name tasks out of {list(names)}. "
                f"Found {unknown[0]!r}."
            )
        read = [values.get(name, 1.0) for name in names]
    elif isinstance(values, Sequence) and not isinstance(values, str):
        if len(values) != tasks:
            raise ValueError(
                f"Parameter `task_weights` should hold {tasks} weights. Found {len(values)}."
            )
        read = list(values)
    else:
        raise TypeError(
            "Parameter `task_weights` should be a dict, a sequence, or a function of the step that "
            f"returns one. Found {type(values).__name__}."
        )
    for value in read:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"Parameter `task_weights` should hold numbers. Found {value!r}.")
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(
                f"Parameter `task_weights` should hold finite numbers of at least 0. Found {value}."
            )
    if not any(read):
        raise ValueError("Parameter `task_weights` should hold a positive number. Found only 0.")
    return read

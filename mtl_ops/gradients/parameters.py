"""Which of an optimizer's parameters are merged, and which of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

__all__ = ["Granularity", "Parameters", "find_parameters"]

Granularity = Literal["model", "group", "tensor"]


@dataclass(frozen=True)
class Parameters:
    """P parameters that require a gradient.

    Attributes:
        tensors: The parameters.
        sets: For each the set in which it is merged if it is shared; ``None`` for one set.
        shared: For each whether it is shared; ``None`` to find out.
    """

    tensors: list[Tensor]
    sets: list[int] | None = None
    shared: list[bool] | None = None


def find_parameters(
    groups: Sequence[dict[str, Any]],
    granularity: Granularity,
    shared: Sequence[Tensor] | None,
    learnable: Sequence[Tensor],
) -> Parameters:
    """Reads parameter groups.

    Args:
        groups: The optimizer's parameter groups.
        granularity: Of the sets.
        shared: The parameters that the user says are shared; ``None`` to find out.
        learnable: Those of the method itself, which are not merged.

    Raises:
        ValueError: If none requires a gradient.
    """
    seen = {id(param) for param in learnable}
    tensors, numbers = [], []
    for number, group in enumerate(groups):
        for param in group["params"]:
            key = id(param)  # each once, however often it is in a group
            if key not in seen and param.requires_grad:
                seen.add(key)
                tensors.append(param)
                numbers.append(number)
    if not tensors:
        raise ValueError(
            "Parameter `optimizer` should hold a parameter that requires a gradient. Found none."
        )
    sets = None
    if granularity != "model":
        sets = numbers if granularity == "group" else list(range(len(tensors)))
    if shared is None:
        return Parameters(tensors, sets)
    chosen = {id(param) for param in shared}
    return Parameters(tensors, sets, [id(param) in chosen for param in tensors])

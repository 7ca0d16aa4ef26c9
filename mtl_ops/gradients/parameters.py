"""Which of an optimizer's parameters are merged, and which of them together."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

__all__ = ["Finder", "Granularity", "Parameters"]

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


class Finder:
    """Reads parameter groups, and again only if they have changed.

    Args:
        granularity: Of the sets.
        shared: The parameters that the user says are shared; ``None`` to find out.
    """

    def __init__(self, granularity: Granularity, shared: Sequence[Tensor] | None) -> None:
        self.granularity, self.shared = granularity, shared
        self._known: tuple[list[int], list[Tensor], Parameters] | None = None

    def find(self, groups: Sequence[dict[str, Any]], own: Sequence[Tensor]) -> Parameters:
        """The parameters that require a gradient.

        Args:
            groups: The optimizer's parameter groups.
            own: Those of the method itself, which are not merged.

        Raises:
            ValueError: If none requires a gradient.
        """
        sizes = [len(own), *(len(group["params"]) for group in groups)]
        seen = [*own, *(p for group in groups for p in group["params"] if p.requires_grad)]
        if self._known is not None:
            sizes_before, before, found = self._known
            same = sizes == sizes_before and len(seen) == len(before)
            if same and all(map(operator.is_, seen, before)):
                return found
        found = self._read(groups, own)
        self._known = sizes, seen, found
        return found

    def _read(self, groups: Sequence[dict[str, Any]], own: Sequence[Tensor]) -> Parameters:
        seen = {id(param) for param in own}
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
        if self.granularity != "model":
            sets = numbers if self.granularity == "group" else list(range(len(tensors)))
        if self.shared is None:
            return Parameters(tensors, sets)
        chosen = {id(param) for param in self.shared}
        return Parameters(tensors, sets, [id(param) in chosen for param in tensors])

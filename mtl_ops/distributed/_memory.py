"""What an optimizer holds that should be the same in all processes at every step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from ._settings import show

__all__ = ["memory_of", "trained_of"]


def memory_of(owner: Optimizer) -> Callable[[], Mapping[str, Any]]:
    """Returns what the merging remembers, with tensors as hashes; does not keep the optimizer."""
    known = weakref.ref(owner)

    def memory() -> Mapping[str, Any]:
        one = known()
        if one is None:
            return {}
        return {name: _digest(value) for name, value in one.state_dict()["tasks"].items()}

    return memory


def trained_of(owner: Optimizer) -> Callable[[], list[bool]]:
    """Returns of each parameter whether it requires a gradient; does not keep the optimizer."""
    known = weakref.ref(owner)

    def trained() -> list[bool]:
        one = known()
        groups = [] if one is None else one.param_groups
        return [param.requires_grad for group in groups for param in group["params"]]

    return trained


def _digest(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _digest(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_digest(one) for one in value]
    return show(value)

"""What an optimizer holds that should be the same in all processes at every step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from ._settings import show

__all__ = ["Watched", "Watcher"]


class Watched(Protocol):
    """What merges over processes."""

    def remembered(self) -> Mapping[str, Any]:
        """What the merging remembers from step to step."""

    def trained(self) -> list[bool]:
        """Which parameters require a gradient."""


class Watcher:
    """Asks it, and does not keep it alive.

    Args:
        watched: What merges; ``None`` for nothing.
    """

    def __init__(self, watched: Watched | None = None) -> None:
        self._known = (lambda: None) if watched is None else weakref.ref(watched)

    def remembered(self) -> dict[str, Any]:
        """What it remembers, with tensors as hashes."""
        one = self._known()
        found = {} if one is None else one.remembered()
        return {name: _digest(value) for name, value in found.items()}

    def trained(self) -> list[bool]:
        """Which parameters require a gradient."""
        one = self._known()
        return [] if one is None else one.trained()


def _digest(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _digest(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_digest(one) for one in value]
    return show(value)

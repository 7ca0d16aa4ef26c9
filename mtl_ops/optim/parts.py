"""What of the merging is saved: a dict of parts, each of which saves, loads and forgets by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .merger import Merger
from .turns import Turns

__all__ = ["Part", "load_parts", "parts_of", "save_parts"]

#: Names that parts had in older checkpoints.
_OLD = {"step": "cheap_steps"}


class Part(Protocol):
    """Something with a memory."""

    def state_dict(self) -> Any:
        """In types that ``torch.load(weights_only=True)`` reads."""

    def load_state_dict(self, state: Any) -> None:
        """Restores what :meth:`state_dict` returned."""

    def reset(self) -> None:
        """Forgets, as if newly made."""


class _Draws:
    """The generator as a part; that the training starts afresh is nothing to it."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> Tensor:
        return self.generator.get_state()

    def load_state_dict(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def reset(self) -> None:
        pass


def parts_of(merger: Merger, turns: Turns | None) -> dict[str, Part]:
    """By the names that they have in a checkpoint."""
    parts: dict[str, Part] = {"method_state": merger.method, "step": merger.step}
    if turns is not None:
        parts["turns"] = turns
    if merger.generator is not None:
        parts["generator"] = _Draws(merger.generator)
    return parts


def save_parts(merger: Merger, parts: Mapping[str, Part]) -> dict[str, Any]:
    """What goes into a checkpoint."""
    saved = {name: part.state_dict() for name, part in parts.items()}
    absent = dict.fromkeys(("turns", "generator"))
    return {**merger.progress.state_dict(), "method": merger.method.name, **absent, **saved}


def load_parts(
    merger: Merger,
    parts: Mapping[str, Part],
    saved: Mapping[str, Any] | None,
    load_inner: Callable[[], None],
) -> None:
    """Restores what :func:`save_parts` returned; ``None`` to start afresh.

    Args:
        merger: What was made with the same arguments.
        parts: Its parts.
        saved: The checkpoint.
        load_inner: Restores the inner optimizer, when there are as many groups as in its state.

    Raises:
        ValueError: If the state is of another method or of other tasks.
    """
    progress = merger.progress
    if saved is None:
        load_inner()
        progress.steps = 0
        progress.forget_skipped()
    else:
        if saved["method"] != merger.method.name:
            raise ValueError(
                f"Parameter `state_dict` should be of method {merger.method.name!r}. "
                f"Found one of {saved['method']!r}."
            )
        progress.check(saved)
        if saved["count"] is not None:
            names = saved["names"]
            merger.bind(None if names is None else tuple(names), saved["count"])
        load_inner()
        progress.load(saved, merger.device)
    for name, part in parts.items():
        state = None if saved is None else saved.get(name, saved.get(_OLD.get(name, name)))
        if state is None or (isinstance(state, dict) and not state and name == "step"):
            part.reset()
        else:
            part.load_state_dict(state)

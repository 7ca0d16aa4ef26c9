"""Checkpoints and copies of an optimizer that merges gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .learned_group import add_group, state_with_group
from .stepping import SteppingOptimizer
from .turns import Turns

__all__ = ["CheckpointedOptimizer"]


class CheckpointedOptimizer(SteppingOptimizer):
    """Saves, restores and copies what the merging remembers, with the inner optimizer's state.

    Attributes:
        generator: Where it draws from, if that is to be saved.
    """

    generator: torch.Generator | None
    _turns: Turns | None

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, and under ``"tasks"`` what the merging remembers.

        Tensors, numbers and strings only, for ``torch.load(weights_only=True)``.
        """
        state = super().state_dict()
        state["tasks"] = {
            **self._memory.state_dict(),
            "method": self.method.name,
            "method_state": self.method.state_dict(),
            "step": self._step.state_dict(),
            "turns": None if self._turns is None else self._turns.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        The state of a bare inner optimizer is accepted, too; the merging then starts afresh.

        Raises:
            ValueError: If the state is of another method or of other tasks.
        """
        state = dict(state_dict)
        tasks = state.pop("tasks", None)
        if tasks is None:
            self._load_inner(state)
            self.method.reset()
            self._step.reset()
            if self._turns is not None:
                self._turns.reset()
            self._memory.steps, self._memory.times_skipped = 0, None
            return
        self._check_state(tasks)
        names = tasks["names"]
        if tasks["count"] is not None:  # first, so that there are as many groups as in the state
            self._bind(None if names is None else tuple(names), tasks["count"])
        self._load_inner(state)
        self._memory.load(tasks, self._device())
        self.method.load_state_dict(tasks["method_state"])
        step = tasks["step"] if "step" in tasks else tasks["cheap_steps"]
        if step:
            self._step.load_state_dict(step)
        if self._turns is not None and tasks["turns"] is not None:
            self._turns.load_state_dict(tasks["turns"])
        if self.generator is not None and tasks["generator"] is not None:
            self.generator.set_state(tasks["generator"].cpu())

    def _load_inner(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state_with_group(self.optimizer, self._memory.learnable, state))

    def _check_state(self, tasks: Mapping[str, Any]) -> None:
        if tasks["method"] != self.method.name:
            raise ValueError(
                f"Parameter `state_dict` should be of method {self.method.name!r}. "
                f"Found one of {tasks['method']!r}."
            )
        self._memory.check(tasks)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_memory"] = self._memory.without_gradients()
        state["_parallel"] = (
            None  # process groups cannot be copied; each process is for itself then
        )
        if self.generator is not None:
            state["generator"] = (self.generator.device.type, self.generator.get_state())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.generator, tuple):
            device, saved = self.generator
            self.generator = torch.Generator(device)
            self.generator.set_state(saved)
            self.method.generator = self.generator

    def _bind(self, names: tuple[str, ...] | None, count: int) -> None:
        """From now on these are the tasks."""
        memory = self._memory
        if memory.count is None:
            memory.learnable = self.method.learnable(count, self._device())
            add_group(self.optimizer, memory.learnable, self.method.name)
        memory.names, memory.count = names, count

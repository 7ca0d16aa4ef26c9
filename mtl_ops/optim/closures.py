"""Closures of optimizers that evaluate the losses within their step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["CalledOff", "Earlier", "FirstDecides", "Remembered", "versions"]


class CalledOff(BaseException):
    """Ends a step from within its closure; no ``Exception``, which an optimizer may catch."""


class FirstDecides:
    """A closure whose first evaluation may call the step off.

    Args:
        closure: The user's.
        decide: Called after the first evaluation; whether the step is called off.

    Attributes:
        evaluated: Whether there was a first evaluation, and it was decided.
        first: Its result.
    """

    def __init__(self, closure: Callable[[], Any], decide: Callable[[], bool]) -> None:
        self.closure, self.decide = closure, decide
        self.evaluated, self.first = False, None

    def __call__(self) -> Any:
        """What the user's closure returns.

        Raises:
            CalledOff: After the first evaluation.
        """
        with torch.enable_grad():
            result = self.closure()
        if not self.evaluated:
            self.first = result
            if self.decide():
                raise CalledOff
            self.evaluated = True
        return result


class Remembered:
    """A closure whose first result is known already, as long as no parameter has moved since.

    Args:
        closure: Evaluates anew.
        first: What it would return.
        params: What it depends on.
    """

    def __init__(self, closure: Callable[[], Any], first: Any, params: Iterable[Tensor]) -> None:
        self.closure, self.results = closure, [first]
        self.params = list(params)
        self.versions = versions(self.params)

    def __call__(self) -> Any:
        """The first result, and then those of the closure."""
        known = self.results.pop() if self.results else None
        if known is not None and versions(self.params) == self.versions:
            return known
        return self.closure()


class Earlier:
    """What an optimizer had before its step, to be put back if the step is called off within.

    The optimizers of torch evaluate before they move anything, so of those no tensor is copied. Others,
    such as SAM or schedule-free ones, are elsewhere by then.

    Args:
        optimizer: The inner optimizer.
        copies: Whether tensors may be copied at all.
    """

    def __init__(self, optimizer: Optimizer, copies: bool) -> None:
        torchs = type(optimizer).__module__.partition(".")[0] == "torch"
        self.optimizer, self.copies = optimizer, copies and not torchs
        self.groups = [(group, dict(group)) for group in optimizer.param_groups]
        self.numbers = {k: v for k, v in vars(optimizer).items() if isinstance(v, (int, float))}
        state = getattr(optimizer, "state", {})
        self.state = {key: dict(value) for key, value in state.items() if isinstance(value, dict)}
        self.tensors: list[tuple[Tensor, int, Tensor]] = []
        if self.copies:
            params = [p for group in optimizer.param_groups for p in group["params"]]
            found = [value for values in self.state.values() for value in values.values()]
            tensors = [*params, *(value for value in found if isinstance(value, Tensor))]
            self.tensors = [
                (t, v, t.detach().clone()) for t, v in zip(tensors, versions(tensors), strict=True)
            ]

    def forget(self) -> None:
        """Frees the copies: the step goes on."""
        self.tensors = []

    def put_back(self) -> None:
        """As it was."""
        optimizer = self.optimizer
        with torch.no_grad():
            for tensor, version, copy in self.tensors:
                if versions([tensor]) != [version]:
                    tensor.copy_(copy)
        for group, options in self.groups:
            group.clear()
            group.update(options)
        vars(optimizer).update(self.numbers)
        state = getattr(optimizer, "state", {})
        for key in [key for key in state if key not in self.state and isinstance(state[key], dict)]:
            del state[key]
        for key, values in self.state.items():
            state[key].clear()
            state[key].update(values)


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was written to; -1 of inference mode, where nobody counts."""
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors]

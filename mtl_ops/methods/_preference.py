"""What methods with a preference share: one number a task, of the method or handed in with a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import PerTask, Sign, only

__all__ = ["Preference"]


class Preference:
    """A preference r of the tasks.

    It is the method's own, from its constructor, unless one is handed in with a call, as ``optimizer.backward(losses,
    preference=r)``: so one model can be trained for many preferences.

    Args:
        values: T numbers, or ``None`` for what the method takes by itself.
        sign: As of ``PerTask``: what its own numbers have to be. One that is handed in is not looked at, because that
            would wait for the device.

    Raises:
        ValueError: If the numbers are out of range.
        TypeError: If they are no numbers.
    """

    def __init__(self, values: Sequence[float] | Tensor | None, sign: Sign = "any") -> None:
        self.own = None if values is None else PerTask("preference", values, sign)

    def of(self, given: Mapping[str, Any], tasks: int, device: torch.device) -> Tensor | None:
        """``(T,)`` float64, or ``None``.

        Args:
            given: What was handed in with the call: ``preference`` or nothing.
            tasks: T.
            device: Where it is needed.

        Raises:
            TypeError: If something else is handed in, or what is no tensor and no numbers.
            ValueError: If there are not T numbers.
        """
        only(given, "preference")
        handed = given.get("preference")
        if handed is None:
            return None if self.own is None else self.own.on(device, tasks)
        if not isinstance(handed, Tensor):
            return PerTask("preference", handed).on(device, tasks)
        if handed.shape != (tasks,):
            raise ValueError(
                f"Parameter `preference` should have shape ({tasks},). "
                f"Found shape {tuple(handed.shape)}."
            )
        return handed.detach().to(device, torch.float64).contiguous()

    def on_gram(self, given: Mapping[str, Any], gram: Tensor) -> Tensor | None:
        """The same for a Gram matrix ``(S, T, T)``."""
        return self.of(given, gram.shape[-1], gram.device)

    def __repr__(self) -> str:
        return repr(self.own)

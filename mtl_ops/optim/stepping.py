"""The step of an optimizer whose gradients may be lost."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..distributed import Processes, Samples
from ..gradients.tasks import Losses, Tasks, read_losses
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from ..step.step import Step
from .state import Memory
from .wrapper import OptimizerWrapper, Remembered, tell_grad_scaler

__all__ = ["SteppingOptimizer"]


class SteppingOptimizer(OptimizerWrapper):
    """Steps with the inner optimizer unless the reports say that there is no gradient to step with.

    Attributes:
        method: What weighs the tasks.

    Args:
        optimizer: The inner optimizer.
        rules: What to do about gradients that are not finite.
        grad_scaler: The scaler to tell of them, if there is one.
    """

    method: Method
    _step: Step
    _parallel: Processes | None = None

    def __init__(
        self, optimizer: Optimizer, rules: Rules, grad_scaler: torch.amp.GradScaler | None
    ) -> None:
        super().__init__(optimizer)
        self.rules = rules
        self._grad_scaler = grad_scaler
        self._memory = Memory()

    @property
    def report(self) -> Report:
        """What the last :meth:`backward` measured and decided."""
        return self._memory.report

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As ``torch.optim.Optimizer.zero_grad``; forgets accumulated gradients, too."""
        self._memory.forget_gradients()
        self._step.forget()
        super().zero_grad(set_to_none)

    def observe(self, losses: Losses, *, samples: Samples = 1.0) -> None:
        """Shows the method the losses of the same batch after the step, for ``famo``.

        Args:
            losses: As of :meth:`backward`; they need no gradient.
            samples: As of :meth:`backward`.

        Raises:
            TypeError: If the losses are not tensors, or the method has no use for them.
            ValueError: As :meth:`backward`.
        """
        read = functools.partial(self._read_own, losses, differentiable=False)
        if self._parallel is None:
            tasks = read()
        else:
            with self._together():
                tasks = self._parallel.read(read, self._memory.count, samples, self._device())
        self.method.observe(tasks.values)

    def _read_own(self, losses: Losses, differentiable: bool = True) -> Tasks:
        """The losses of this process."""
        alone = self._parallel is None
        read = read_losses(losses, self._memory.names, differentiable, some=alone)
        self._memory.check_count(len(read.losses))
        return read

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Around what all processes have to do together."""
        return contextlib.nullcontext() if self._parallel is None else self._parallel.together()

    def _device(self) -> torch.device:
        some: Tensor = next(p for group in self.optimizer.param_groups for p in group["params"])
        return some.device

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner optimizer's step, unless the gradients are lost (see ``nonfinite``).

        Args:
            closure: Evaluates the losses, calls :meth:`backward` and returns the total loss, for
                optimizers that evaluate several times a step, such as ``LBFGS``. Only the first
                evaluation is made before the step and can call it off; a NaN in a later one is the
                inner optimizer's to deal with.

        Returns:
            What the inner optimizer returns.
        """
        result = None
        if closure is not None:
            # Evaluated here first, because whether the step is lost is known only then.
            with torch.enable_grad():
                result = closure()
            closure = Remembered(closure, result)
        reports = self._memory.unstepped
        if reports:
            self._memory.steps += 1
        if self._grad_scaler is not None:
            broken = [report.lost(any_task=True) for report in reports]
            tell_grad_scaler(self._grad_scaler, self, _any(broken))
        lost = _any([self._lost(report) for report in reports])
        if lost is None:
            result = super().step(closure)
        elif lost.device.type != "cpu" and self._step_supports_amp_scaling:
            result = self.step_unless(lost, closure)
        elif not bool(lost):
            result = super().step(closure)
        self._memory.unstepped = []
        return result

    def _lost(self, report: Report) -> Tensor | None:
        """Whether there is no gradient to step with; ``None`` if there is, or nobody should ask."""
        measured = report._gram if report._joint is None else report._joint
        if measured is None or self.rules.nonfinite not in ("skip_task", "skip_step"):
            return None
        any_task = self.rules.nonfinite == "skip_step"
        if measured.device.type == "cpu":
            return None if math.isfinite(measured.sum().item()) else report.lost(any_task)
        if any_task or self._step_supports_amp_scaling:
            return report.lost(any_task)
        return None  # rather than wait for the device in every step


def _any(flags: Sequence[Tensor | None]) -> Tensor | None:
    """Whether any of the 0-d flags is true; ``None`` if there is none."""
    known = [flag for flag in flags if flag is not None]
    return torch.stack(known).any() if known else None

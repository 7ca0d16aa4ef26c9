"""The step of an optimizer whose gradients may be lost."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..distributed import Processes, Samples, read_samples
from ..gradients.tasks import Losses, Tasks, read_losses
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from ..step.step import Step
from .closures import CalledOff, Earlier, FirstDecides
from .state import Memory
from .wrapper import OptimizerWrapper, tell_grad_scaler

__all__ = ["SteppingOptimizer"]

#: After how many steps without a backward of its own it says so.
UNMERGED = 3


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
            read_samples(samples, tasks)
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
                optimizers that evaluate within their step, such as ``LBFGS`` or SAM. It is theirs to
                call. If the gradients of the first evaluation are lost, or it fails, the step ends there
                and the parameters are where they were; a NaN in a later one is the inner optimizer's to
                deal with.

        Returns:
            What the inner optimizer returns; the closure's result if the step is called off.
        """
        memory = self._memory
        if closure is not None:
            return self._evaluating_step(closure)
        result = None
        if memory.unstepped:
            memory.steps += 1
        else:
            self._warn_of_missing_backward()
        lost = self._verdict()
        if lost is None:
            result = super().step()
        elif self._on_device(lost):
            result = self.step_unless(lost)
        elif not bool(lost):
            result = super().step()
        memory.unstepped = []
        return result

    def _evaluating_step(self, closure: Callable[[], Any]) -> Any:
        """A step whose gradients come while it is taken."""
        memory = self._memory
        earlier = Earlier(self.optimizer, copies=self.rules.nonfinite != "propagate")
        on_device: list[Tensor] = []

        def decide() -> bool:
            lost = self._verdict()
            if lost is not None and self._on_device(lost):
                on_device.append(lost)
                self.found_inf = lost.float()
            elif lost is not None and bool(lost):
                return True
            earlier.forget()
            return False

        first = FirstDecides(closure, decide)
        try:
            result = super().step(first)
            if not first.evaluated and decide():  # it moved with what there was
                raise CalledOff
        except CalledOff:
            earlier.put_back()
            result = first.first
        except BaseException:
            if not first.evaluated:
                earlier.put_back()
            raise
        finally:
            if on_device:
                del self.found_inf
        if memory.unstepped:
            memory.steps += 1
        memory.unstepped = []
        return result

    def _on_device(self, lost: Tensor) -> bool:
        """Whether the inner optimizer skips a step by itself, without a wait."""
        return lost.device.type != "cpu" and self._step_supports_amp_scaling

    def _verdict(self) -> Tensor | None:
        """Whether the gradients that are there are lost; ``None`` if nobody should ask."""
        reports = self._memory.unstepped
        if self._grad_scaler is not None:
            broken = [report.lost(any_task=True) for report in reports]
            tell_grad_scaler(self._grad_scaler, self, _any(broken))
        return _any([self._lost(report) for report in reports])

    def _warn_of_missing_backward(self) -> None:
        """Says once that nothing is merged, where gradients come from elsewhere in the first steps."""
        memory = self._memory
        if memory.unmerged is None:
            return
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        memory.unmerged += any(param.grad is not None for param in params)
        if memory.unmerged == UNMERGED:
            memory.unmerged = None
            warnings.warn(
                f"{type(self).__name__}.step() was called {UNMERGED} times with gradients, and `backward` of this "
                "optimizer never: nothing is merged, and the model trains on the sum that `loss.backward()` gives. "
                "Call `optimizer.backward(losses)` instead of that.",
                stacklevel=4,
            )

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

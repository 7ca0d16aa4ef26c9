"""The step of an inner optimizer whose gradients may be lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..merging.report import Report
from ..merging.rules import Rules
from ..ops.known import all_finite
from .closures import CalledOff, Earlier, FirstDecides
from .progress import Progress
from .wrapper import OptimizerWrapper, tell_grad_scaler

__all__ = ["InnerStep"]

#: After how many steps without a backward of its own it says so.
UNMERGED = 3


class InnerStep:
    """Steps with the inner optimizer unless the reports say that there is no gradient to step with.

    Args:
        wrapper: What the inner optimizer, its hooks and a ``GradScaler`` see.
        progress: Has the reports of the backwards since the last step.
        rules: What to do about gradients that are not finite.
        grad_scaler: The scaler to tell of them, if there is one.
    """

    def __init__(
        self,
        wrapper: OptimizerWrapper,
        progress: Progress,
        rules: Rules,
        grad_scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.wrapper, self.progress = wrapper, progress
        self.rules, self.grad_scaler = rules, grad_scaler

    def _move(self, closure: Callable[[], Any] | None = None) -> Any:
        """The bare step, whatever the gradients are."""
        return OptimizerWrapper.step(self.wrapper, closure)

    def take(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner optimizer's step, unless it is lost; see :meth:`mtl_ops.MultiTaskOptimizer.step`."""
        return self._plain_step() if closure is None else self._evaluating_step(closure)

    def _plain_step(self) -> Any:
        """A step whose gradients are there."""
        progress, result = self.progress, None
        if progress.unstepped:
            progress.steps += 1
        else:
            self._warn_of_missing_backward()
        lost = self._verdict()
        if lost is None:
            result = self._move()
        elif self._on_device(lost):
            result = self.wrapper.step_unless(lost)
        elif not bool(lost):
            result = self._move()
        progress.unstepped = ()
        return result

    def _evaluating_step(self, closure: Callable[[], Any]) -> Any:
        """A step whose gradients come while it is taken."""
        progress = self.progress
        earlier = Earlier(self.wrapper.optimizer, copies=self.rules.nonfinite != "propagate")
        on_device: list[Tensor] = []

        def decide() -> bool:
            lost = self._verdict()
            if lost is not None and self._on_device(lost):
                on_device.append(lost)
                self.wrapper.found_inf = lost.float()
            elif lost is not None and bool(lost):
                return True
            earlier.forget()
            return False

        first = FirstDecides(closure, decide)
        try:
            result = self._move(first)
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
                del self.wrapper.found_inf
        if progress.unstepped:
            progress.steps += 1
        else:
            self._warn_of_missing_backward()
        progress.unstepped = ()
        return result

    def _on_device(self, lost: Tensor) -> bool:
        """Whether the inner optimizer skips a step by itself, without a wait."""
        return lost.device.type != "cpu" and self.wrapper._step_supports_amp_scaling

    def _verdict(self) -> Tensor | None:
        """Whether the gradients that are there are lost; ``None`` if nobody should ask."""
        reports = self.progress.unstepped
        if self.grad_scaler is not None:
            broken = [report.lost(any_task=True) for report in reports]
            tell_grad_scaler(self.grad_scaler, self.wrapper, _any(broken))
        if len(reports) == 1:
            return self._lost(reports[0])
        return _any([self._lost(report) for report in reports])

    def _warn_of_missing_backward(self) -> None:
        """Says once that nothing is merged, where gradients come from elsewhere in the first steps."""
        progress = self.progress
        if progress.unmerged is None:
            return
        params = [p for group in self.wrapper.optimizer.param_groups for p in group["params"]]
        progress.unmerged += any(param.grad is not None for param in params)
        if progress.unmerged == UNMERGED:
            progress.unmerged = None
            warnings.warn(
                f"{type(self.wrapper).__name__}.step() was called {UNMERGED} times with gradients, and `backward` "
                "of this optimizer never: nothing is merged, and the model trains on the sum that `loss.backward()` "
                "gives. Call `optimizer.backward(losses)` instead of that.",
                stacklevel=5,
            )

    def _lost(self, report: Report) -> Tensor | None:
        """Whether there is no gradient to step with; ``None`` if there is, or nobody should ask."""
        measured = report._gram if report._joint is None else report._joint
        if measured is None or self.rules.nonfinite not in ("skip_task", "skip_step"):
            return None
        any_task = self.rules.nonfinite == "skip_step"
        if measured.device.type == "cpu":
            well = all_finite(measured)
            if report.weights is not None and report._joint is None:  # of which these are
                well = well and all_finite(report.weights)
            return None if well else report.lost(any_task)
        if any_task or self.wrapper._step_supports_amp_scaling:
            return report.lost(any_task)
        return None  # rather than wait for the device in every step


def _any(flags: Sequence[Tensor | None]) -> Tensor | None:
    """Whether any of the 0-d flags is true; ``None`` if there is none."""
    known = [flag for flag in flags if flag is not None]
    return torch.stack(known).any() if known else None

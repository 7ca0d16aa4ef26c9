"""A kind of step that is tried on a user's model."""

from __future__ import annotations

import copy
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..optim.merger import Holder, Merger, Request
from ..optim.optimizer import MultiTaskOptimizer
from .cost import StepCost
from .evaluate import Evaluate
from .kinds import Kind

__all__ = ["Merged", "Plain", "Tried"]


class Tried(ABC):
    """What was found out about a kind of step so far.

    Args:
        kind: The kind.
        evaluate: Evaluates the losses.
        params: All parameters.

    Attributes:
        period: After how many steps it does the same again.
        applies: Whether it can be taken.
        note: Why not, or what was warned of.
        angles: Degrees to the exact step, one for each step of training.
        peak: Bytes.
        readings: Seconds of a step, one for each round.
    """

    def __init__(self, kind: Kind, evaluate: Evaluate, params: list[Tensor]) -> None:
        self.kind, self.evaluate, self.params = kind, evaluate, params
        self.period, self.applies, self.note = 1, True, ""
        self.angles: list[float] = []
        self.peak: int | None = None
        self.readings: list[float] = []

    @abstractmethod
    def write(self) -> None:
        """Writes ``.grad``, which is ``None`` before."""

    def step(self) -> None:
        """From whatever ``.grad`` is to what this kind writes."""
        for param in self.params:
            param.grad = None
        self.write()

    def whole_period(self) -> None:
        """As many steps as it takes until all comes again."""
        for _ in range(self.period):
            self.step()

    def refuse(self, why: str) -> None:
        """It cannot be taken."""
        self.applies, self.note = False, why

    def cost(self, plain: Tried) -> StepCost:
        """What was found, against the plain sum."""
        if not self.applies:
            return StepCost(self.kind.name, self.kind.options, note=self.note)
        by_round = zip(self.readings, plain.readings, strict=True)
        angle = math.nan if not self.angles else statistics.fmean(self.angles)
        return StepCost(
            self.kind.name,
            self.kind.options,
            statistics.median(self.readings),
            statistics.median(own / other for own, other in by_round),
            self.peak,
            angle if math.isfinite(angle) else None,
            self.note,
        )


class Plain(Tried):
    """The sum of the losses, differentiated once: what all others are measured against."""

    def __init__(
        self,
        evaluate: Evaluate,
        params: list[Tensor],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(Kind("plain sum"), evaluate, params)
        self._scaler = scaler
        self._trained = [param for param in params if param.requires_grad]

    def write(self) -> None:
        """One backward; ``.grad`` of what the optimizer does not own stays as it is."""
        total = torch.stack([loss.reshape(()) for loss in self.evaluate().tensors]).sum()
        if self._scaler is not None:
            total = self._scaler.scale(total)
        torch.autograd.backward(total, inputs=self._trained)


class Merged(Tried):
    """A step that merges, as the optimizer would with other options.

    It has a copy of the method and draws from a generator of its own, seeded as all others'.

    Args:
        kind: The kind.
        optimizer: Whose other options it has.
        evaluate: Evaluates the losses.
        params: All parameters.
    """

    def __init__(
        self, kind: Kind, optimizer: MultiTaskOptimizer, evaluate: Evaluate, params: list[Tensor]
    ) -> None:
        super().__init__(kind, evaluate, params)
        settings = kind.of(optimizer.settings, copy.deepcopy(optimizer.method), evaluate.device)
        earlier, weights = optimizer._merger.progress, settings.task_weights
        if callable(weights):
            settings = replace(settings, task_weights=_later(weights, earlier.steps))
        self.period = settings.weights_every
        learnt = {id(param) for param in optimizer.learnable}
        groups = [
            {**group, "params": [param for param in group["params"] if id(param) not in learnt]}
            for group in optimizer.param_groups
        ]
        holder = Holder([group for group in groups if group["params"]])
        try:
            self._merger = Merger(settings, holder, learns=False)
            if earlier.count is not None:  # the method remembers them by their places
                self._merger.bind(earlier.names, earlier.count)
        except ValueError as error:
            self.refuse(str(error))

    def write(self) -> None:
        """Forward and backward, as in a step of training."""
        found = self.evaluate()
        self._merger.forget()
        self._merger.backward(found.losses, self._request(found.features))
        self._merger.progress.steps += 1

    def _request(self, features: object) -> Request:
        wanted = self._merger.step.takes_features
        return Request(features=features if wanted else None)  # type: ignore[arg-type]


def _later(weights: Callable[[int], Any], steps: int) -> Callable[[int], Any]:
    """A schedule that has come so far."""
    return lambda step: weights(steps + step)

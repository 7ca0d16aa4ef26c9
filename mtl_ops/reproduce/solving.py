"""One training of a network that is to solve an equation, and its error after so many steps and so many seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle

import torch
from torch import Tensor

from .. import MultiTaskOptimizer
from ..demo.spec import make_method
from .equations import Equation
from .fields import FieldNet
from .training import SUM

__all__ = ["MOMENTUM", "Course", "Errors", "solve"]

#: M-ConFIG: one loss a step, in turn; its step is Adam's, taken by SGD.
MOMENTUM = "momentum:method=config,second=pseudo_adam,before=wait"
#: Of its own steps, what a cheap method may take in the time of the sum.
MOST = 4


@dataclass(frozen=True)
class Course:
    """How a network is trained.

    Attributes:
        method: As on the command line, see :mod:`mtl_ops.demo.spec`; ``"sum"`` is a bare sum.
        kinds: The losses, see :meth:`mtl_ops.reproduce.equations.Equation.loss`.
        counts: Points of each kind, drawn anew in every step.
        steps: Length.
        rates: The learning rate at first and in the end, in between half a wave of a cosine after a warm-up of a
            hundredth of the steps, a hundred at most; two that are the same: always this one.
        looks: How often errors are measured in so many steps.
    """

    method: str
    kinds: tuple[str, ...]
    counts: Mapping[str, int]
    steps: int
    rates: tuple[float, float]
    looks: int = 25


@dataclass(frozen=True)
class Errors:
    """What came out.

    Attributes:
        mse: Mean squared error at the test points after all steps.
        best: The least that was seen.
        relative: ``√(Σ (u - u*)² / Σ u*²)`` after all steps.
        seconds: Of the processor, for these steps without the measuring.
        timely: The relative error at the last look within the time that was given, or of the first one.
        timely_steps: How many steps those were.
    """

    mse: float
    best: float
    relative: float
    seconds: float
    timely: float
    timely_steps: int


def solve(equation: Equation, course: Course, seed: int, limit: float | None = None) -> Errors:
    """Train, and measure.

    Args:
        equation: What is solved.
        course: How.
        seed: Of the initial weights and the points.
        limit: Seconds of the processor that the sum took for its steps; what has time left after its own goes on,
            with the last learning rate. ``None``: what it takes itself.
    """
    torch.manual_seed(seed)
    net = FieldNet(len(equation.box), equation.components)
    points, wanted = _tested(type(equation))
    size = wanted.square().mean().item()
    step = _Step(equation, course, net, torch.Generator().manual_seed(seed))
    every = max(1, course.steps // course.looks)
    curve: list[tuple[int, float, float]] = []
    spent, taken = 0.0, 0
    while taken < course.steps or (
        limit is not None and spent < limit and taken < MOST * course.steps
    ):
        start = time.process_time()
        step.take()
        spent, taken = spent + time.process_time() - start, taken + 1
        if taken % every == 0 or taken == course.steps:
            curve.append((taken, spent, _mse(net, points, wanted)))
    _, seconds, mse = next(look for look in curve if look[0] == course.steps)
    within = [look for look in curve if look[1] <= (seconds if limit is None else limit)]
    timely = within[-1] if within else curve[0]
    return Errors(
        mse=mse,
        best=min(found for count, _, found in curve if count <= course.steps),
        relative=math.sqrt(mse / size),
        seconds=seconds,
        timely=math.sqrt(timely[2] / size),
        timely_steps=timely[0],
    )


class _Step:
    """A step with points of its own; of M-ConFIG those of one loss."""

    def __init__(
        self, equation: Equation, course: Course, net: FieldNet, generator: torch.Generator
    ) -> None:
        self.equation, self.course, self.net, self.generator = equation, course, net, generator
        self.turns = cycle([(kind,) for kind in course.kinds])
        averaged = course.method == MOMENTUM
        kind = torch.optim.SGD if averaged else torch.optim.Adam
        self.optimizer: torch.optim.Optimizer = kind(net.parameters(), lr=course.rates[0])
        self.in_turn = averaged
        if course.method != SUM:
            self.optimizer = MultiTaskOptimizer(
                self.optimizer,
                make_method(course.method),
                tasks=list(course.kinds),
                fresh=1 if averaged else None,
            )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda taken: share_of_rate(course, taken)
        )

    def take(self) -> None:
        kinds = next(self.turns) if self.in_turn else self.course.kinds
        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {
            kind: self.equation.loss(kind, self.net, self.course.counts, self.generator)
            for kind in kinds
        }
        if isinstance(self.optimizer, MultiTaskOptimizer):
            self.optimizer.backward(losses)
        else:
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()


def share_of_rate(course: Course, taken: int) -> float:
    """The learning rate after so many steps, as a share of the first one."""
    first, last = course.rates
    if first == last:
        return 1.0
    warm = min(100, course.steps // 100)
    if taken < warm:
        return taken / warm
    way = min(1.0, (taken - warm) / (course.steps - warm))
    return (last + (first - last) * (1 + math.cos(math.pi * way)) / 2) / first


@lru_cache
def _tested(kind: type[Equation]) -> tuple[Tensor, Tensor]:
    """Test points in float32 and the solution there in float64, which takes a second of Burgers' equation."""
    equation = kind()
    points = equation.test_points()
    return points.float(), equation.solution(points)


@torch.no_grad()
def _mse(net: FieldNet, points: Tensor, wanted: Tensor) -> float:
    mse: float = (net(points).double() - wanted).square().mean().item()
    return mse

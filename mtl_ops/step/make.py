"""From the options to the step that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..gradients.factored.by_sample import BySample
from ..gradients.factored.find import Factoring
from ..gradients.source import Source
from ..merging.sink import Sink
from .averaged import Averaged, Fresh
from .exact import Exact
from .factored import Factored
from .measured_elsewhere import MeasuredElsewhere
from .online import Online
from .step import Step
from .streamed import Streamed
from .weighted_sum import WeightedSum

__all__ = ["Plan", "make_step"]


@dataclass(frozen=True)
class Plan:
    """What decides which step is taken.

    Attributes:
        one_backward: Whether the method weighs losses, and nobody asks for a gradient of a single task.
        streamed: Whether gradients are freed piece by piece.
        online: Whether then the method takes them one after the other.
        gram_on: Where G is measured; ``None`` for all shared parameters.
        weights_every: In how many steps the weights are solved anew once.
        factoring: What measures and merges without the gradients of single tasks; ``None`` for rows.
        averaged: Whether averages of the gradients are merged.
        fresh: Which tasks' averages move in a step; ``None`` for all.
    """

    one_backward: bool = False
    streamed: bool = False
    online: bool = False
    gram_on: Literal["features"] | Sequence[Tensor] | None = None
    weights_every: int = 1
    factoring: Factoring | BySample | None = None
    averaged: bool = False
    fresh: Fresh | None = None


def make_step(plan: Plan, source: Source, sink: Sink) -> Step:
    """The one place that knows all kinds of steps.

    Args:
        plan: What is asked for.
        source: Where gradients come from.
        sink: Where the merged gradient lands.
    """
    if plan.one_backward:
        return WeightedSum(source, sink)
    if plan.averaged:
        return Averaged(source, sink, plan.fresh)
    exact: Step = Exact(source, sink)
    if plan.streamed:
        exact = Online(source, sink) if plan.online else Streamed(source, sink)
    if plan.factoring is not None and isinstance(exact, Exact):
        exact = Factored(plan.factoring, exact)
    if plan.gram_on is None and plan.weights_every == 1:
        return exact
    return MeasuredElsewhere(exact, plan.gram_on, plan.weights_every)

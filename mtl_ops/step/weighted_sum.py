"""A step of one backward, of a sum that the losses alone weigh."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..gradients.differentiate import joint_backward, joint_gradient
from ..gradients.lazy import Lazy
from ..gradients.parameters import Parameters
from ..gradients.rows import on_device
from ..gradients.source import PLAIN, Source
from ..merging.call import Call
from ..merging.report import Report
from ..merging.sink import GRADS, Sink
from ..methods.linear import Sum
from ..ops.known import known_finite
from .exact import BesideExact, Exact
from .step import as_sparse, finish

__all__ = ["WEIGHTED_SUM", "WeightedSum", "as_one_task"]

#: How messages call the gradient that all tasks have a part in.
WEIGHTED_SUM = "weighted sum of all"


class WeightedSum(BesideExact):
    """One backward of the weighted losses; a task whose loss is not finite gets the weight 0.

    There is no gradient of a single task, so only the sum can be checked and clipped: as the one
    row of a problem with one task. Gradients of micro-batches are another matter: their tasks are weighed
    when all are there, so each is kept by itself.
    """

    def __init__(self, source: Source = PLAIN, sink: Sink = GRADS) -> None:
        super().__init__(Exact(source, sink))

    @property
    def counts(self) -> bool:
        return self.sums is not None

    def backward(self, call: Call) -> Report:
        """One backward to ``.grad``."""
        self.exact.sums = self.take_sums()
        if self.exact.sums is not None:
            return self.exact.backward(call)
        tasks, rules, params = call.tasks, call.rules, call.params.tensors
        unchecked = rules.max_norm is None and rules.nonfinite in ("propagate", "skip_task")
        unchecked = unchecked and self.sink.alone
        if unchecked:
            known = _by_numbers(call)
            if known is not None:
                return known
        w, joint = _weigh(call)
        clip_scale = None
        if unchecked:
            joint_backward(tasks, w, params, call.retain_graph)
            if rules.nonfinite == "propagate":
                joint = None
        else:
            source = as_sparse(self.source, self.sink, call)
            rows = joint_gradient(tasks, w, params, call.retain_graph, source)
            report = self.sink.merge(as_one_task(call), rows)
            clip_scale, joint = report.clip_scale, report._gram
        weights = w.unsqueeze(0)
        report = Report(names=tasks.names, weights=weights, clip_scale=clip_scale, _joint=joint)
        return finish(call, report)


class _OfNumbers(Report):
    """The report of a step whose losses and weights are numbers: tensors are made if somebody reads them."""

    def __init__(
        self, names: tuple[str, ...] | None, weights: list[float], losses: list[float]
    ) -> None:
        # What else a report holds was not measured, as its class says.
        self.names, self._w, self._l = names, weights, losses

    @Lazy
    def weights(self) -> Tensor:
        return torch.tensor([self._w], dtype=torch.float64)

    @Lazy
    def _losses(self) -> Tensor:
        return torch.tensor(self._l, dtype=torch.float64)


def _by_numbers(call: Call) -> Report | None:
    """One backward to ``.grad`` where all losses are finite and can be read without a wait; ``None`` elsewhere.

    Every operator of torch counts here: the one of the method, if it needs any, and one for the weights.
    """
    tasks, method = call.tasks, call.method
    alone = tasks.scale is None and tasks.shares is None and tasks.totals is None
    losses = tasks.numbers if alone else None
    if losses is None or not all(map(math.isfinite, losses)) or not all(call.task_weights):
        return None
    w = None if call.given else method.numbers(losses)
    if w is None:
        w = method.weights(None, tasks.values, **call.given).tolist()
    if call.task_weights.count(1.0) != len(w):
        w = [weight * factor for weight, factor in zip(w, call.task_weights, strict=True)]
    joint_backward(tasks, w, call.params.tensors, call.retain_graph)
    report = _OfNumbers(tasks.names, w, losses)
    if call.rules.nonfinite != "propagate" and not math.isfinite(sum(w)):
        report._joint = report.weights
    if method.learns:
        method.add_grads(tasks.values)
    return report


def _weigh(call: Call) -> tuple[Tensor, Tensor | None]:
    """The weights ``(T,)`` of the losses, and what is NaN or Inf if no task is left; ``None`` if all is well.

    What can be known without a wait, on the CPU, takes no operator: this is most of what a small step costs.
    """
    losses = call.losses
    w = call.method.weights(None, losses, **call.given)
    if any(weight != 1.0 for weight in call.weights):
        w = on_device(call.weights, losses.device) * w
    if known_finite(losses):
        w = w.clone() if w.dtype == torch.float64 else w.double()  # what the method may remember
        return w, None if math.isfinite(sum(w.tolist())) else w
    part = losses.isfinite()
    w = torch.where(part, w.double(), 0.0)
    return w, torch.where(part.any(), w, torch.nan)


def as_one_task(call: Call) -> Call:
    """The call for what is a sum already, whose only row is :data:`WEIGHTED_SUM`."""
    whole = replace(call.tasks, names=(WEIGHTED_SUM,), losses=(None,), part=(True,), totals=None)
    return replace(
        call,
        method=Sum(),
        tasks=whole,
        params=Parameters(call.params.tensors),
        task_weights=[1.0],
        rules=replace(call.rules, normalise="none", keep_scale=False),
        given={},
        times_skipped=None,
    )

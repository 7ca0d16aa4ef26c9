"""A step of one backward, of a sum that the losses alone weigh."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..gradients.differentiate import joint_backward, joint_gradient
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

    def backward(self, call: Call) -> Report:
        """One backward to ``.grad``."""
        self.exact.sums = self.take_sums()
        if self.exact.sums is not None:
            return self.exact.backward(call)
        tasks, rules, params = call.tasks, call.rules, call.params.tensors
        w, joint = _weigh(call)
        clip_scale = None
        unchecked = rules.max_norm is None and rules.nonfinite in ("propagate", "skip_task")
        if unchecked and self.sink.alone:
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


def _weigh(call: Call) -> tuple[Tensor, Tensor | None]:
    """The weights ``(T,)`` of the losses, and what is NaN or Inf if no task is left; ``None`` if all is well.

    What can be known without a wait, on the CPU, takes no operator: this is most of what a small step costs.
    """
    losses = call.losses
    w = call.method.weights(None, losses, **call.given)
    if any(weight != 1.0 for weight in call.weights):
        w = on_device(call.weights, losses.device) * w
    if known_finite(losses):
        w = w.to(torch.float64, copy=True)  # it may be what the method remembers
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

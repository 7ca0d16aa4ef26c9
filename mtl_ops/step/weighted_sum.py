"""A step of one backward, of a sum that the losses alone weigh."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..gradients.differentiate import joint_backward, joint_gradient
from ..gradients.parameters import Parameters
from ..gradients.rows import on_device
from ..merging.call import Call
from ..merging.report import Report
from ..methods.linear import Sum
from .sink import merge_into_grads

__all__ = ["WEIGHTED_SUM", "as_one_task", "one_backward"]

#: How messages call the gradient that all tasks have a part in.
WEIGHTED_SUM = "weighted sum of all"


def one_backward(call: Call) -> Report:
    """The gradient of the weighted sum; a task whose loss is not finite gets the weight 0.

    There is no gradient of a single task, so only the sum can be checked and clipped: as the one
    row of a problem with one task.
    """
    tasks, rules, losses = call.tasks, call.rules, call.losses
    params = call.params.tensors
    factors = on_device(call.weights, losses.device)
    part = losses.isfinite()
    w = torch.where(part, factors * call.method.weights(None, losses, **call.given), 0.0)
    clip_scale = joint = None
    unchecked = rules.max_norm is None and rules.nonfinite in ("propagate", "skip_task")
    if unchecked and tasks.parallel is None:
        joint_backward(tasks, w, params, call.retain_graph)
        if rules.nonfinite == "skip_task":
            joint = torch.where(part.any(), w, torch.nan)
    else:
        rows = joint_gradient(tasks, w, params, call.retain_graph)
        report = merge_into_grads(as_one_task(call), rows)
        clip_scale, joint = report.clip_scale, report._gram
    return Report(names=tasks.names, weights=w.unsqueeze(0), clip_scale=clip_scale, _joint=joint)


def as_one_task(call: Call) -> Call:
    """The call for what is a sum already, whose only row is :data:`WEIGHTED_SUM`."""
    whole = replace(call.tasks, names=(WEIGHTED_SUM,), losses=(None,), part=(True,), totals=None)
    return replace(
        call,
        method=Sum(),
        tasks=whole,
        params=Parameters(call.params.tensors),
        task_weights=[1.0],
        given={},
        times_skipped=None,
    )

"""A step of one backward, of a sum that the losses alone weigh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..gradients.differentiate import joint_backward, joint_gradient
from ..gradients.rows import on_device
from ..gradients.tasks import Tasks
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from ..methods.linear import Sum
from .sink import merge_into_grads

__all__ = ["WEIGHTED_SUM", "one_backward", "present_weights", "taking_part"]

#: How messages call the gradient that all tasks have a part in.
WEIGHTED_SUM = "weighted sum of all"


def one_backward(
    method: Method,
    tasks: Tasks,
    params: Sequence[Tensor],
    weights: Sequence[float],
    losses: Tensor,
    rules: Rules,
    given: Mapping[str, Any] | None,
    retain_graph: bool,
) -> Report:
    """The gradient of the weighted sum; a task whose loss is not finite gets the weight 0.

    There is no gradient of a single task, so only the sum can be checked and clipped: as the one
    row of a problem with one task.
    """
    factors = on_device(weights, losses.device)
    part = losses.isfinite()
    w = torch.where(part, factors * method.weights(None, losses, **given or {}), 0.0)
    clip_scale = joint = None
    unchecked = rules.max_norm is None and rules.nonfinite in ("propagate", "skip_task")
    if unchecked and tasks.parallel is None:
        joint_backward(tasks, w, params, retain_graph)
        if rules.nonfinite == "skip_task":
            joint = torch.where(part.any(), w, torch.nan)
    else:
        rows = joint_gradient(tasks, w, params, retain_graph)
        report = merge_into_grads(
            Sum(),
            rows,
            params,
            [1.0],
            rules,
            names=(WEIGHTED_SUM,),
            grad_scale=tasks.scale,
            parallel=tasks.parallel,
        )
        clip_scale, joint = report.clip_scale, report._gram
    return Report(names=tasks.names, weights=w.unsqueeze(0), clip_scale=clip_scale, _joint=joint)


def taking_part(tasks: Tasks, weights: Sequence[float]) -> Tensor:
    """``(T,)`` float64, the losses; NaN for a task that takes no part."""
    values = tasks.values
    if all(weights[t] for t in tasks.taking_part):
        return values
    return torch.where(on_device(weights, values.device) != 0, values, torch.nan)


def present_weights(task_weights: Sequence[float], tasks: Tasks) -> list[float]:
    """The weights of the tasks that are there; 0 for those that are absent."""
    part = set(tasks.taking_part)
    return [weight if t in part else 0.0 for t, weight in enumerate(task_weights)]

"""Steps of one backward whose weights are known, or are found on the way down.

With the weights w known, the merged gradient of the shared parameters is that of one scalar, ``Σ_t w_t L_t``: one
backward instead of T. What is left to do for each task by itself is cheap: the parameters that only its loss reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..gradients.differentiate import dense, differentiate, joint_backward, joint_gradient
from ..gradients.graph import leaves, leaves_of_each
from ..gradients.rows import unscaled
from ..gradients.tasks import Tasks
from ..merging.merge import raise_if_nonfinite
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import LossMethod
from .sink import merge_into_grads
from .weighted_sum import WEIGHTED_SUM

__all__ = ["Measured", "features_step", "joint_step"]


@dataclass(frozen=True)
class Measured:
    """Weights and scales of the tasks, and the Gram matrix they came from.

    Attributes:
        gram: ``(1, T, T)`` float64.
        scale: ``(T,)`` float64, see :func:`mtl_ops.ops.task_scales`.
        weights: ``(T,)`` float64.
    """

    gram: Tensor
    scale: Tensor
    weights: Tensor

    @classmethod
    def of(cls, report: Report) -> Measured | None:
        """What a whole step measured; ``None`` if the losses share no parameter."""
        if report._gram is None or report._scale is None or report.weights is None:
            return None
        if report._shared != 1:
            return None
        return cls(report._gram[:1], report._scale[0], report.weights[0])


def features_step(
    weigh: Callable[[Sequence[Tensor | None]], Measured],
    tasks: Tasks,
    features: Sequence[Tensor],
    params: Sequence[Tensor],
    rules: Rules,
    retain_graph: bool = False,
) -> tuple[Report, Measured]:
    """One step with G measured on the gradients of the features.

    Each loss is differentiated down to the features and no further; the merged gradient of the features is then sent
    through the rest of the network. Together that is what one backward of a sum does.
    """
    count = len(features)
    above = leaves(tasks.losses, features)
    downstream = [leaf for leaf in params if id(leaf) in above]
    both = [*features, *downstream]
    rows = differentiate(tasks, both, retain_graph=True)
    at_features = [row for t in range(len(tasks.losses)) for row in rows[t * len(both) :][:count]]
    reached = [k for k in range(count) if any(row is not None for row in at_features[k::count])]
    if not reached and tasks.present:
        raise ValueError(
            "Parameter `features` should be what the losses are computed from. Found no loss that reaches it."
        )
    measured = weigh(at_features)
    merged = [torch.empty_like(features[k]) for k in reached]
    picked = [
        at_features[start + k] for start in range(0, len(at_features), count) for k in reached
    ]
    trunk: Sequence[Tensor | None] = [None] * len(params)
    landed = _can_land(params, rules, tasks)
    if reached:
        ops.merge_(merged, picked, measured.weights.unsqueeze(0))
        starts = [features[k] for k in reached]
        if landed:
            torch.autograd.backward(starts, merged, retain_graph=retain_graph, inputs=list(params))
        else:
            trunk = torch.autograd.grad(
                starts, list(params), merged, retain_graph=retain_graph, allow_unused=True
            )
    place = {id(leaf): count + k for k, leaf in enumerate(downstream)}
    heads = [
        None if id(leaf) not in place else rows[t * len(both) + place[id(leaf)]]
        for t in range(len(tasks.losses))
        for leaf in params
    ]
    report = _write(measured, heads, trunk, params, rules, tasks, landed)
    return report, measured


def joint_step(
    measured: Measured,
    tasks: Tasks,
    params: Sequence[Tensor],
    rules: Rules,
    retain_graph: bool = False,
) -> Report:
    """One step with weights that are known: a backward of ``Σ_t w_t L_t``, and one of each head."""
    reached = leaves_of_each(tasks.losses)
    count = len(params)
    reach = [leaf if id(leaf) in found else None for found in reached for leaf in params]
    times = [sum(by_task) for by_task in _reached(reach, params, tasks)]
    own = [p for p in range(count) if times[p] == 1]
    shared = [p for p in range(count) if times[p] > 1]
    heads: list[Tensor | None] = [None] * (len(tasks.losses) * len(params))
    if own:
        # Each is reached by one loss only: one backward of all losses keeps them apart.
        ones = torch.ones_like(measured.weights)
        rows = joint_gradient(tasks, ones, [params[p] for p in own], retain_graph=True)
        for p, row in zip(own, rows, strict=True):
            for t, found in enumerate(reached):
                if id(params[p]) in found:  # in none, if only another process has the task
                    heads[t * count + p] = row
    trunk: list[Tensor | None] = [None] * len(params)
    landed = _can_land(params, rules, tasks)
    if shared:
        weights = torch.where(measured.weights == 0, 0.0, measured.weights)
        common = [params[p] for p in shared]
        if landed:
            joint_backward(tasks, weights, common, retain_graph)
        else:
            joint = joint_gradient(tasks, weights, common, retain_graph)
            for p, row in zip(shared, joint, strict=True):
                trunk[p] = row
    return _write(measured, heads, trunk, params, rules, tasks, landed)


def _can_land(params: Sequence[Tensor], rules: Rules, tasks: Tasks) -> bool:
    """Whether the merged gradient can go to ``.grad`` at once, which saves a pass over it.

    Not where it is to be clipped or summed over processes, or is added to what only then could not be
    measured any more.
    """
    alone = tasks.parallel is None and rules.max_norm is None
    return alone and all(param.grad is None for param in params)


def _write(
    measured: Measured,
    heads: Sequence[Tensor | None],
    trunk: Sequence[Tensor | None],
    params: Sequence[Tensor],
    rules: Rules,
    tasks: Tasks,
    landed: bool,
) -> Report:
    """Writes ``.grad`` but for what landed there: T rows of what a task reaches by itself, one of what is merged.

    A parameter that several tasks reach by themselves takes their gradients with the weights, one that a single task
    reaches with its scale; the row of what is merged already has the factor 1.
    """
    count = len(params)
    rows = [*heads, *trunk]
    reached = _reached(rows, params, tasks)
    one = torch.ones(1, dtype=torch.float64, device=measured.weights.device)
    factors = [torch.cat([measured.weights, one]), torch.cat([measured.scale, one])]
    sets = [0 if sum(by_task) > 1 else 1 for *by_task, _ in reached]
    present = sorted({name for name, found in zip(sets, reached, strict=True) if any(found)})
    joint = _measure_landed(params, rules, tasks) if landed else []
    # Whatever is not finite now is in the sum already: nothing can be left out of it any more.
    nonfinite = "skip_step" if rules.nonfinite == "skip_task" else rules.nonfinite
    names = tasks.names or tuple(str(t) for t in range(len(tasks.losses)))
    report = Report()
    if present or not landed:
        known = torch.stack([factors[name] for name in present])
        report = merge_into_grads(
            _Known(known),
            rows,
            params,
            [1.0] * (len(tasks.losses) + 1),
            Rules(max_norm=rules.max_norm, nonfinite=nonfinite),
            sets=sets,
            shared=[True] * count,
            names=(*names, WEIGHTED_SUM),
            grad_scale=tasks.scale,
            parallel=tasks.parallel,
        )
        if report._gram is not None:
            joint.append(_masked(report._gram, known).sum())
    return Report(
        names=tasks.names,
        weights=measured.weights.unsqueeze(0),
        clip_scale=report.clip_scale,
        _gram=measured.gram,
        _shared=1,
        _part=tuple(loss is not None for loss in tasks.losses),
        _joint=torch.stack(joint) if joint else None,
        _losses=tasks.detached,
    )


def _measure_landed(params: Sequence[Tensor], rules: Rules, tasks: Tasks) -> list[Tensor]:
    """The squared norm of what is in ``.grad``, if anybody asks whether it is finite."""
    found = [param for param in params if param.grad is not None]
    for param in found:
        param.grad = dense(param.grad)
    if not found or rules.nonfinite == "propagate":
        return []
    gram = unscaled(ops.gram([param.grad for param in found], 1), tasks.scale)
    if rules.nonfinite == "raise":
        raise_if_nonfinite(gram, [1.0], (WEIGHTED_SUM,))
    return [gram.sum()]


def _reached(
    rows: Sequence[Tensor | None], params: Sequence[Tensor], tasks: Tasks
) -> list[list[bool]]:
    """For each parameter which rows have a gradient of it, in any process."""
    if tasks.parallel is not None:
        rows = tasks.parallel.anywhere(rows, params)
    count = len(params)
    return [[row is not None for row in rows[p::count]] for p in range(count)]


def _masked(gram: Tensor, weights: Tensor) -> Tensor:
    """Without the rows and columns of weight 0, which go nowhere, whatever they hold."""
    part = weights != 0
    return torch.where(part.unsqueeze(2) & part.unsqueeze(1), gram, 0.0)


class _Known(LossMethod):
    """Weights that are known."""

    def __init__(self, known: Tensor) -> None:
        self.known = known

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        return self.known

"""Steps of one backward whose weights are known, or are found on the way down.

With the weights w known, the merged gradient of the shared parameters is that of one scalar, ``Σ_t w_t L_t``: one
backward instead of T. What is left to do for each task by itself is cheap: the parameters that only its loss reaches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from ..gradients.differentiate import differentiate, joint_backward, joint_gradient
from ..gradients.frontier import leaves_above
from ..gradients.parameters import Parameters
from ..gradients.reach import leaves_of_each
from ..gradients.rows import dense, unscaled
from ..gradients.tasks import Tasks
from ..merging.call import Call
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
    weigh: Callable[[Sequence[Tensor | None]], Measured], call: Call, features: Sequence[Tensor]
) -> tuple[Report, Measured]:
    """One step with G measured on the gradients of the features.

    Each loss is differentiated down to the features and no further; the merged gradient of the features is then sent
    through the rest of the network. Together that is what one backward of a sum does, if nothing goes past the
    features and through them to the same parameter. If something does, in any process, the gradients at the features
    only measure G, and the losses are differentiated once more, as one weighted sum.
    """
    tasks, params, retain_graph = call.tasks, call.params.tensors, call.retain_graph
    above = leaves_above(tasks.losses, features)
    if _anywhere(above is None, features, tasks):
        rows = differentiate(tasks, features, retain_graph=True)
        _check_features(rows, tasks)
        measured = weigh(rows)
        return joint_step(measured, call), measured
    assert above is not None
    count = len(features)
    downstream = [leaf for leaf in params if id(leaf) in above]
    both = [*features, *downstream]
    rows = differentiate(tasks, both, retain_graph=True)
    at_features = [row for t in range(len(tasks.losses)) for row in rows[t * len(both) :][:count]]
    reached = [k for k in range(count) if any(row is not None for row in at_features[k::count])]
    _check_features(at_features, tasks)
    measured = weigh(at_features)
    merged = [torch.empty_like(features[k]) for k in reached]
    picked = [
        at_features[start + k] for start in range(0, len(at_features), count) for k in reached
    ]
    trunk: Sequence[Tensor | None] = [None] * len(params)
    landed = _can_land(call)
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
    with _taken_back(params if landed else ()):
        report = _write(measured, heads, trunk, call, landed)
    return report, measured


def _anywhere(here: bool, features: Sequence[Tensor], tasks: Tasks) -> bool:
    """Whether something is so in any process."""
    if tasks.parallel is None:
        return here
    place = features[:1]
    return tasks.parallel.anywhere([place[0] if here else None], place)[0] is not None


def _check_features(rows: Sequence[Tensor | None], tasks: Tasks) -> None:
    if tasks.present and all(row is None for row in rows):
        raise ValueError(
            "Parameter `features` should be what the losses are computed from. Found no loss that reaches it."
        )


def joint_step(measured: Measured, call: Call) -> Report:
    """One step with weights that are known: a backward of ``Σ_t w_t L_t``, and one of each head."""
    tasks, params, retain_graph = call.tasks, call.params.tensors, call.retain_graph
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
    landed = _can_land(call)
    if shared:
        weights = torch.where(measured.weights == 0, 0.0, measured.weights)
        common = [params[p] for p in shared]
        if landed:
            joint_backward(tasks, weights, common, retain_graph)
        else:
            joint = joint_gradient(tasks, weights, common, retain_graph)
            for p, row in zip(shared, joint, strict=True):
                trunk[p] = row
    with _taken_back(params if landed else ()):
        return _write(measured, heads, trunk, call, landed)


def _can_land(call: Call) -> bool:
    """Whether the merged gradient can go to ``.grad`` at once, which saves a pass over it.

    Not where it is to be clipped or summed over processes, or is added to what only then could not be
    measured any more.
    """
    alone = call.tasks.parallel is None and call.rules.max_norm is None
    return alone and all(param.grad is None for param in call.params.tensors)


@contextlib.contextmanager
def _taken_back(params: Sequence[Tensor]) -> Iterator[None]:
    """After an error no parameter has a ``.grad``."""
    try:
        yield
    except BaseException:
        for param in params:
            param.grad = None
        raise


def _write(
    measured: Measured,
    heads: Sequence[Tensor | None],
    trunk: Sequence[Tensor | None],
    call: Call,
    landed: bool,
) -> Report:
    """Writes ``.grad`` but for what landed there: T rows of what a task reaches by itself, one of what is merged.

    A parameter that several tasks reach by themselves takes their gradients with the weights, one that a single task
    reaches with its scale; the row of what is merged already has the factor 1.
    """
    tasks, params, rules = call.tasks, call.params.tensors, call.rules
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
        ones = [1.0] * (len(tasks.losses) + 1)
        known_call = replace(
            call,
            method=_Known(known),
            tasks=replace(
                tasks,
                names=(*names, WEIGHTED_SUM),
                losses=(None,) * len(ones),
                part=(True,) * len(ones),
                totals=None,
            ),
            params=Parameters(params, sets, [True] * count),
            task_weights=ones,
            rules=Rules(max_norm=rules.max_norm, nonfinite=nonfinite),
            given={},
            times_skipped=None,
        )
        report = merge_into_grads(known_call, rows)
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

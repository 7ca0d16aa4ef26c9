"""Steps of one backward whose weights are known, or are found on the way down.

With the weights w known, the merged gradient of the shared parameters is that of one scalar, ``Σ_t w_t L_t``: one
backward instead of T. What is left to do for each task by itself is cheap: the parameters that only its loss reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import ops
from ..gradients.differentiate import joint_backward, joint_gradient
from ..gradients.parameters import Parameters
from ..gradients.reach import leaves_of_each
from ..gradients.rows import columns, dtypes_of, unscaled
from ..gradients.source import Source
from ..gradients.sparse import elements
from ..merging.call import Call
from ..merging.merge import raise_if_nonfinite
from ..merging.report import Report
from ..merging.rules import Rules
from ..merging.sink import Sink
from ..methods import LossMethod
from .weighted_sum import WEIGHTED_SUM

__all__ = ["Known", "Measured", "known_rows"]


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

    def report(self, call: Call, clip_scale: Tensor | None, joint: Sequence[Tensor]) -> Report:
        """Of a step with these weights; ``joint`` is finite if what was merged is."""
        tasks = call.tasks
        return Report(
            names=tasks.names,
            weights=self.weights.unsqueeze(0),
            clip_scale=clip_scale,
            _gram=self.gram,
            _shared=1,
            _part=tuple(loss is not None for loss in tasks.losses),
            _joint=torch.stack(list(joint)) if joint else None,
            _losses=tasks.detached,
        )


@dataclass(frozen=True)
class Known:
    """The gradients of a step whose weights are known.

    Attributes:
        measured: The weights.
        heads: ``T × P``, row-major: of what a task reaches by itself.
        trunk: P gradients that are weighed and summed already.
        landed: Whether ``.grad`` has those of the trunk.
    """

    measured: Measured
    heads: Sequence[Tensor | None]
    trunk: Sequence[Tensor | None]
    landed: bool

    def write(self, call: Call, sink: Sink) -> Report:
        """Adds to ``.grad`` what did not land there.

        A parameter that several tasks reach by themselves takes their gradients with the weights, one that a single
        task reaches with its scale; the row of what is merged already has the factor 1.
        """
        tasks, rules = call.tasks, call.rules
        count, rows = len(call.params.tensors), [*self.heads, *self.trunk]
        sets, factors = self._sets(call, sink, rows)
        joint = _measure_landed(call) if self.landed else []
        # Whatever is not finite now is in the sum already: nothing can be left out of it any more.
        nonfinite = "skip_step" if rules.nonfinite == "skip_task" else rules.nonfinite
        names = tasks.names or tuple(str(t) for t in range(len(tasks.losses)))
        report = Report()
        if len(factors) or not self.landed:
            ones = [1.0] * (len(tasks.losses) + 1)
            known = replace(
                call,
                method=_Known(factors),
                tasks=replace(
                    tasks,
                    names=(*names, WEIGHTED_SUM),
                    losses=(None,) * len(ones),
                    part=(True,) * len(ones),
                    totals=None,
                ),
                params=Parameters(call.params.tensors, sets, [True] * count),
                task_weights=ones,
                rules=Rules(max_norm=rules.max_norm, nonfinite=nonfinite),
                given={},
                times_skipped=None,
            )
            report = sink.merge(known, rows)
            if report._gram is not None:
                joint.append(_masked(report._gram, factors).sum())
        return self.measured.report(call, report.clip_scale, joint)

    def folded(self, call: Call, sink: Sink) -> list[Tensor | None]:
        """P gradients: all of this process in one row, neither clipped nor written anywhere."""
        rows = [*self.heads, *self.trunk]
        sets, _ = self._sets(call, sink, rows)
        count = len(call.params.tensors)
        here = [p for p in range(count) if any(row is not None for row in rows[p::count])]
        merged: list[Tensor | None] = [None] * count
        if here:
            rows = columns(rows, count, here)
            params = [call.params.tensors[p] for p in here]
            out = [
                torch.empty_like(param, dtype=dtype)
                for param, dtype in zip(params, dtypes_of(rows, params), strict=True)
            ]
            names = sorted({sets[p] for p in here})
            segments = [names.index(sets[p]) for p in here]
            weights = self._factors()[names]
            ops.merge_(out, rows, weights, segments=segments)
            for p, gradient in zip(here, out, strict=True):
                merged[p] = gradient
        return merged

    def _factors(self) -> Tensor:
        """``(2, T + 1)``: of what several tasks reach by themselves, and of what one does."""
        one = torch.ones(1, dtype=torch.float64, device=self.measured.weights.device)
        measured = self.measured
        return torch.stack([torch.cat([x, one]) for x in (measured.weights, measured.scale)])

    def _sets(
        self, call: Call, sink: Sink, rows: Sequence[Tensor | None]
    ) -> tuple[list[int], Tensor]:
        """Of each parameter the row of factors, and the rows that are in use."""
        reached = _reached(rows, call.params.tensors, sink)
        sets = [0 if sum(by_task) > 1 else 1 for *by_task, _ in reached]
        present = sorted({name for name, found in zip(sets, reached, strict=True) if any(found)})
        return sets, self._factors()[present]


def known_rows(measured: Measured, call: Call, source: Source, sink: Sink, land: bool) -> Known:
    """A backward of ``Σ_t w_t L_t``, and one of each head.

    Args:
        measured: The weights.
        call: What is asked for.
        source: Where gradients come from.
        sink: Who else has a part.
        land: Whether the merged gradient may go to ``.grad`` at once.
    """
    tasks, params, retain_graph = call.tasks, call.params.tensors, call.retain_graph
    reached = leaves_of_each(tasks.losses)
    count = len(params)
    reach = [leaf if id(leaf) in found else None for found in reached for leaf in params]
    times = [sum(by_task) for by_task in _reached(reach, params, sink)]
    own = [p for p in range(count) if times[p] == 1]
    shared = [p for p in range(count) if times[p] > 1]
    heads: list[Tensor | None] = [None] * (len(tasks.losses) * count)
    if own:
        # Each is reached by one loss only: one backward of all losses keeps them apart.
        ones = torch.ones_like(measured.weights)
        chosen = [params[p] for p in own]
        rows = joint_gradient(tasks, ones, chosen, True, source)
        for p, row in zip(own, rows, strict=True):
            for t, found in enumerate(reached):
                if id(params[p]) in found:  # in none, if only another process has the task
                    heads[t * count + p] = row
    trunk: list[Tensor | None] = [None] * count
    if shared:
        weights = torch.where(measured.weights == 0, 0.0, measured.weights)
        common = [params[p] for p in shared]
        if land:
            joint_backward(tasks, weights, common, retain_graph)
        else:
            joint = joint_gradient(tasks, weights, common, retain_graph, source)
            for p, row in zip(shared, joint, strict=True):
                trunk[p] = row
    return Known(measured, heads, trunk, land)


def _measure_landed(call: Call) -> list[Tensor]:
    """The squared norm of what is in ``.grad``, if anybody asks whether it is finite."""
    found = [param.grad for param in call.params.tensors if param.grad is not None]
    if not found or call.rules.nonfinite == "propagate":
        return []
    gram = unscaled(ops.gram([elements(grad) for grad in found], 1), call.scale)
    if call.rules.nonfinite == "raise":
        raise_if_nonfinite(gram, [1.0], (WEIGHTED_SUM,))
    return [gram.sum()]


def _reached(
    rows: Sequence[Tensor | None], params: Sequence[Tensor], sink: Sink
) -> list[list[bool]]:
    """For each parameter which rows have a gradient of it, in any process."""
    rows = sink.anywhere(rows, params)
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

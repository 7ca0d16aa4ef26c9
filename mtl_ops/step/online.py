"""The step of online PCGrad that holds two gradients: the sum so far, and that of the next task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .. import ops
from ..gradients.differentiate import task_gradients
from ..gradients.layout import NOTHING_REACHED, Layout, find_layout
from ..gradients.piecewise import split
from ..gradients.reach import leaves_of_each
from ..gradients.rows import columns, dtypes_of, unscaled
from ..merging.call import Call
from ..merging.merge import report_of
from ..merging.report import Report
from ..merging.sink import add_to_grads
from ..methods import OnlinePCGrad
from .exact import weighty
from .step import finish
from .streamed import Streamed

__all__ = ["Online"]


class Online(Streamed):
    """Adds each task's gradient to the sum as soon as it is there, and frees it; one backward a loss.

    Where a call needs more than two gradients at once (micro-batches, several processes, normalised or clipped
    elements, an error for what is not finite, an order handed in for each set), it is streamed as that of every other
    method. Each gradient is seen once, so that an order that is drawn is that of all sets.
    Which task reaches what has to be known before, and is read off the graph.
    """

    def backward(self, call: Call) -> Report:
        """Differentiates each loss, merges and adds to ``.grad``."""
        method, rules = call.method, call.rules
        plain = rules.normalise == "none" and rules.clip_value is None
        plain = plain and rules.nonfinite in ("skip_task", "propagate", "skip_step")
        handed = call.given.get("order")
        by_set = isinstance(handed, Tensor) and handed.dim() == 2 and len(handed) != 1
        if self.sums is not None or not self.sink.alone or not plain or method.tracks or by_set:
            return super().backward(call)
        assert isinstance(method, OnlinePCGrad)
        tasks = len(call.task_weights)
        chosen = method.order_of(call.given, (1, tasks), torch.device("cpu"))
        part = weighty(call)
        order = [t for t in chosen[0].tolist() if t in part.present]
        order += [t for t in part.present if t not in order and "order" not in call.given]
        if not order:
            return super().backward(call)
        sums = _Sum(replace(call, tasks=part), _layout(call, part.losses))
        source = replace(self.source, batching=None)
        gradients = task_gradients(part, call.params.tensors, call.retain_graph, source, order)
        for t in order:
            sums.add(t, next(gradients))
        report = sums.report()
        add_to_grads(sums.rows, call.params.tensors)
        return finish(call, report)


def _layout(call: Call, losses: Sequence[Tensor | None]) -> Layout:
    params = call.params
    reached = leaves_of_each(losses)
    marks = [True if id(param) in found else None for found in reached for param in params.tensors]
    layout = find_layout(marks, len(call.task_weights), params.sets, params.shared)
    if layout.total == 0:
        raise ValueError(NOTHING_REACHED)
    return layout


@dataclass
class _Sum:
    """The sum so far.

    Attributes:
        call: What is asked for.
        layout: Of all parameters.
        rows: The sum by place.
        squares: ``(S, T)``, of the gradients' norms in each segment.
        weights: ``(S, T)``, of the gradients in the sum.
        scale: ``(S, T)``, of the gradients.
    """

    call: Call
    layout: Layout
    rows: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tensors = self.call.params.tensors
        shape, device = (self.layout.total, len(self.call.task_weights)), tensors[0].device
        self.squares, self.weights, self.scale = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)
        )
        kept = range(len(tensors)) if self.layout.kept is None else self.layout.kept
        self.home = dict(zip(kept, self.layout.homes(len(kept)), strict=True))
        self.factors = self.layout.factors(self.call.weights)

    def add(self, task: int, gradient: list[Tensor | None]) -> None:
        """Measures and adds a gradient, which is taken over."""
        tensors, tasks = self.call.params.tensors, self.scale.shape[1]
        if all(gradient[p] is None for p in self.home):
            return
        both = [self.rows.get(p) for p in self.home] + [gradient[p] for p in self.home]
        segments = tuple(self.home.values())
        measured = unscaled(ops.gram(both, 2, segments, None), self.call.scale)
        missing = self.layout.total - len(measured)  # last segments that nobody has reached yet
        measured = torch.nn.functional.pad(measured, (0, 0, 0, 0, 0, missing))
        own = [self.factors[s * tasks + task] for s in range(self.layout.total)]
        scale = self._scaled(measured[:, 1, 1], measured.new_tensor(own), task)
        inner, square = measured[:, 0, 1] * scale, measured[:, 0, 0]
        part = torch.arange(len(scale), device=scale.device) < self.layout.shared
        conflict = part & (inner < 0) & (square > 0) & (scale != 0)
        stretch = torch.where(conflict, 1 - inner / square, 1.0)
        self.squares[:, task], self.scale[:, task] = measured[:, 1, 1], scale
        self.weights *= stretch.unsqueeze(1)
        self.weights[:, task] += scale
        factors = torch.stack([stretch, scale], dim=1)
        del both
        for places in split(list(self.home), tensors):
            pair = [*(self.rows.get(p) for p in places), *(gradient[p] for p in places)]
            there = zip(pair, pair[len(places) :], strict=False)
            used = [q for q, (a, g) in enumerate(there) if a is not None or g is not None]
            pair = columns(pair, len(places), used)
            named = [places[q] for q in used]
            params = [tensors[p] for p in named]
            out = [
                torch.empty_like(param, dtype=dtype)
                for param, dtype in zip(params, dtypes_of(pair, params), strict=True)
            ]
            if out:
                ops.merge_(out, pair, factors, None, tuple(self.home[p] for p in named))
            self.rows.update(zip(named, out, strict=True))
            for p in places:
                gradient[p] = None

    def _scaled(self, squares: Tensor, factors: Tensor, task: int) -> Tensor:
        """``(S,)``: the weights and clip factor of a task, 0 if it is skipped, as :func:`mtl_ops.ops.task_scales`."""
        rules, present = self.call.rules, factors != 0
        norm = torch.where(present, squares, 0.0).sum().sqrt()
        if rules.max_task_norm is not None:
            clip = torch.where(norm > rules.max_task_norm, rules.max_task_norm / norm, 1.0)
            factors = factors * clip
        broken = present.any() & ~norm.isfinite()
        if self.call.times_skipped is not None:
            self.call.times_skipped[task] += broken.to(self.call.times_skipped)
        if rules.nonfinite == "skip_task":
            factors = torch.where(broken, 0.0, factors)
        return factors

    def report(self) -> Report:
        """What was measured: of inner products, those with the sum, which are not those of tasks. Clips the sum."""
        rules, diagonal = self.call.rules, torch.diag_embed(self.squares)
        off = 1 - torch.eye(diagonal.shape[1], dtype=torch.float64, device=diagonal.device)
        gram = torch.where(off.bool(), torch.nan, diagonal)
        # If all were skipped the step is lost, and whoever looks at the merged gradient sees it.
        lost = torch.where((self.scale != 0).any() | (self.squares == 0).all(), 1.0, torch.nan)
        clip = None
        factor = lost
        if rules.max_norm is not None:
            rows = list(self.rows.values())
            total = unscaled(ops.gram(rows, 1, (), None), self.call.scale)[0, 0, 0].sqrt()
            clip = torch.where(total > rules.max_norm, rules.max_norm / total, 1.0)
            factor = lost * clip
        for row in self.rows.values():
            row.mul_(factor.to(row.dtype))
        return report_of(self.call, self.layout, gram, self.scale, self.weights, clip)

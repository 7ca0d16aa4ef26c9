"""Steps that never hold all gradients: those of the last backward are freed piece by piece while it runs.

What is done with a piece may depend on all of them: then the last loss is differentiated twice, once to
measure its gradient and once to merge it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..gradients.checks import check_dtypes
from ..gradients.differentiate import differentiate, task_gradients
from ..gradients.layout import NOTHING_REACHED, Layout, find_layout
from ..gradients.piecewise import Take, in_pieces, split
from ..gradients.reach import leaves_of_each
from ..gradients.rows import columns, dtypes_of, unscaled
from ..gradients.source import PLAIN, Source
from ..gradients.storage import store
from ..gradients.tasks import Tasks
from ..merging.call import Call
from ..merging.coordinates import clip_merged, write_coordinates
from ..merging.merge import (
    find_scale,
    find_weights,
    report_of,
)
from ..merging.report import Report
from ..merging.rules import Nonfinite, Rules
from ..merging.scaled_clip import clip_elements, with_scaled_threshold
from ..merging.sink import GRADS, Sink, add_to_grads
from ..methods import CoordinateMethod
from .exact import BesideExact, Exact, weighty
from .step import finish

__all__ = ["Streamed"]


class Streamed(BesideExact):
    """Holds the gradients of T - 1 tasks and a piece; of several processes, those of one task at a time.

    With several processes what counts are the sums, of which each has a part: the gradients of a task are sent as
    soon as they are there, and freed. Which task reaches what has to be known before, and is read off the graph.
    """

    def __init__(self, source: Source = PLAIN, sink: Sink = GRADS) -> None:
        super().__init__(Exact(source, sink))

    def backward(self, call: Call) -> Report:
        """Differentiates each loss, merges and adds to ``.grad``."""
        self.exact.sums = self.take_sums()
        if self.exact.sums is not None:
            return self.exact.backward(call)
        part = weighty(call)
        if not self.sink.alone:
            return finish(call, self._sent(call, part))
        if len(part.present) < 2:
            return self.exact.backward(call)
        report, merged = self._by_pieces(replace(call, tasks=part))
        add_to_grads(merged, call.params.tensors)
        return finish(call, report)

    def _by_pieces(self, call: Call) -> tuple[Report, dict[int, Tensor]]:
        """What was measured, and the merged gradients by place, in the dtype that gradients are stored in."""
        tasks, params = call.tasks, call.params.tensors
        check_dtypes("params", {param.dtype for param in params})
        last = max(tasks.present)
        others = tuple(None if t == last else loss for t, loss in enumerate(tasks.losses))
        others_alone = replace(tasks, losses=others)
        call, limit = with_scaled_threshold(call)
        # No name for the gradients here: it would hold them when they are freed there.
        step = _Pass(
            call,
            self.source,
            list(
                clip_elements(
                    differentiate(others_alone, params, retain_graph=True, source=self.source),
                    limit,
                )
            ),
            limit,
        )
        run = step.in_one_pass if step.needs_no_other_piece else step.in_two_passes
        return run(), step.merged

    def _sent(self, call: Call, part: Tasks) -> Report:
        params = call.params.tensors
        reached = leaves_of_each(part.losses)
        markers = [param if id(param) in found else None for found in reached for param in params]
        early = self.sink.expect(call, markers)
        assert early is not None
        gradients = task_gradients(part, params, call.retain_graph, self.source)
        for t in range(len(part.losses)):
            early.launch(t, next(gradients))
        return self.sink.merge(call, markers, early)


@dataclass
class _Pass:
    """One step.

    Attributes:
        call: What is asked for.
        source: Where gradients come from.
        rows: ``T × P`` gradients, of which those of the last task come and go, and those of the others go.
        limit: Of their elements, if the device alone knows it.
        last: The last task.
        reached: ``T × P``, ``True`` where a task reaches a parameter, or ``None``.
        grams: Of each set the Gram matrices of its pieces, ``(T, T)``.
        merged: Merged gradients by place.
        before: The method's memory before the step.
        square: The squared norm of what a coordinate method has merged.
    """

    call: Call
    source: Source
    rows: list[Tensor | None]
    limit: Tensor | None
    last: int = field(init=False)
    reached: list[bool | None] = field(init=False)
    before: Mapping[str, Any] = field(init=False)
    grams: dict[int, list[Tensor]] = field(default_factory=dict)
    merged: dict[int, Tensor] = field(default_factory=dict)
    square: Tensor | float = 0.0

    def __post_init__(self) -> None:
        self.last = max(self.call.tasks.present)
        self.reached = [None if row is None else True for row in self.rows]
        self.before = copy.deepcopy(self.call.method.state_dict())
        self.tensors = self.call.params.tensors
        self.sets = self.call.params.sets

    @property
    def needs_no_other_piece(self) -> bool:
        """Whether a piece can be merged as soon as it was measured."""
        method, rules = self.call.method, self.call.rules
        unchecked = rules.nonfinite in ("propagate", "raise")
        free = rules.max_norm is None and rules.max_task_norm is None and unchecked
        if isinstance(method, CoordinateMethod):
            return free and method.segmentwise
        # which tasks have a loss depends on all sets
        alone = method.segmentwise and not (method.uses_losses or rules.divides_by_losses)
        return free and alone and len(set(self.sets or ())) > 1

    def in_one_pass(self) -> Report:
        """Measures and merges each piece when it arrives."""
        weights: dict[int, Tensor] = {}
        strict: Nonfinite = "raise" if self.call.rules.nonfinite == "raise" else "propagate"
        rules = self.call.rules
        rules = Rules(nonfinite=strict, normalise=rules.normalise, keep_scale=rules.keep_scale)
        piecewise = replace(self.call, rules=rules, times_skipped=None)

        def take(places: Sequence[int], gradients: list[Tensor | None]) -> None:
            self._hold(places, gradients)
            kept, layout, gram = self._measure(places)
            if not kept:
                return
            scale = find_scale(piecewise, gram, layout)
            found = self._weigh(gram, scale, layout)
            if found is not None:
                weights.update(zip(layout.sets, found, strict=True))
            home = dict(zip(kept, layout.homes(len(kept)), strict=True))
            self._write(home, layout, scale, found)

        sets: Sequence[int] = range(len(self.tensors))
        if self.sets is not None and not isinstance(self.call.method, CoordinateMethod):
            sets = self.sets
        self._run(sets, take, self.call.retain_graph)
        layout, gram = self._measured()
        scale = find_scale(self.call, gram, layout)
        joined = None
        if not isinstance(self.call.method, CoordinateMethod):
            solved = [weights[name] for name in layout.sets[: layout.shared]]
            joined = torch.stack(solved) if solved else scale
        return report_of(self.call, layout, gram, scale, joined, None)

    def in_two_passes(self) -> Report:
        """Measures all pieces, and merges them when they arrive again."""
        every = range(len(self.tensors))

        def measure(places: Sequence[int], gradients: list[Tensor | None]) -> None:
            self._hold(places, gradients)
            self._measure(places)
            self._free(places, [self.last])

        self._run(every, measure, retain_graph=True)
        layout, gram = self._measured()
        scale = find_scale(self.call, gram, layout)
        weights = self._weigh(gram, scale, layout)
        clip_scale = self._merge(layout, gram, scale, weights)
        return report_of(self.call, layout, gram, scale, weights, clip_scale)

    def _merge(
        self,
        layout: Layout,
        gram: Tensor,
        scale: Tensor,
        weights: Tensor | None,
    ) -> Tensor | None:
        """The second pass; returns what the whole merged gradient was clipped by."""
        max_norm, factors, clip_scale = self.call.rules.max_norm, weights, None
        if weights is not None and max_norm is not None:
            clip_scale = _clip(weights, gram, max_norm)
            factors = weights * clip_scale
        every = range(len(self.tensors))
        kept = every if layout.kept is None else layout.kept
        home = dict(zip(kept, layout.homes(len(kept)), strict=True))
        numbers = layout.first_numbers([self.tensors[p] for p in kept])
        first = dict(zip(kept, numbers, strict=True))

        def write(places: Sequence[int], gradients: list[Tensor | None]) -> None:
            self._hold(places, gradients)
            found = {p: home[p] for p in places if p in home and self._has(p)}
            self._write(found, layout, scale, factors, first)

        self._run(every, write, self.call.retain_graph)
        if weights is None and max_norm is not None:
            merged = list(self.merged.values())
            clip_scale = clip_merged(merged, self.square, gram, scale, layout, max_norm)
        return clip_scale

    def _run(self, sets: Sequence[int], take: Take, retain_graph: bool) -> None:
        """The backward of the last task."""
        call, params = self.call, self.tensors
        in_pieces(call.tasks, self.last, params, sets, take, retain_graph, self.source)

    # ---- what both do ---------------------------------------------------------------------------

    def _hold(self, places: Sequence[int], gradients: list[Tensor | None]) -> None:
        """Takes over gradients of the last task; the list is emptied."""
        start, dtype = self.last * len(self.tensors), self.source.dtype
        if dtype is not None:
            store(gradients, dtype)
        clipped = clip_elements(gradients, self.limit)
        for p, gradient in zip(places, clipped, strict=True):
            if gradient is not None:
                self.rows[start + p] = gradient
                self.reached[start + p] = True
        gradients.clear()

    def _free(self, places: Sequence[int], tasks: Sequence[int]) -> None:
        for t in tasks:
            for p in places:
                self.rows[t * len(self.tensors) + p] = None

    def _has(self, place: int) -> bool:
        """Whether there is a gradient of a parameter."""
        return any(row is not None for row in self.rows[place :: len(self.tensors)])

    def _layout(self, reached: Sequence[object | None], places: Sequence[int]) -> Layout:
        sets = None if self.sets is None else [self.sets[p] for p in places]
        named = self.call.params.shared
        shared = None if named is None else [named[p] for p in places]
        return find_layout(reached, len(self.call.task_weights), sets, shared)

    def _measure(self, places: Sequence[int]) -> tuple[Sequence[int], Layout, Tensor]:
        """Of some parameters: those that a task reaches, their layout and Gram matrices."""
        rows = columns(self.rows, len(self.tensors), places)
        layout = self._layout(rows, places)
        if layout.kept is not None:
            rows = columns(rows, len(places), layout.kept)
            places = [places[k] for k in layout.kept]
        if not places:
            return places, layout, torch.empty(0)
        tasks, clip_value = len(self.call.task_weights), self.call.rules.clip_value
        gram = unscaled(ops.gram(rows, tasks, layout.segments, clip_value), self.call.scale)
        for name, one in zip(layout.sets, gram, strict=True):
            self.grams.setdefault(name, []).append(one)
        return places, layout, gram

    def _measured(self) -> tuple[Layout, Tensor]:
        """Of all parameters: the layout and the Gram matrices."""
        layout = self._layout(self.reached, range(len(self.tensors)))
        if layout.total == 0:
            raise ValueError(NOTHING_REACHED)
        sums = [torch.stack(self.grams[name]).sum(dim=0) for name in layout.sets]
        return layout, torch.stack(sums)

    def _weigh(self, gram: Tensor, scale: Tensor, layout: Layout) -> Tensor | None:
        if isinstance(self.call.method, CoordinateMethod):
            return None
        return find_weights(self.call, gram, scale, layout.shared)

    def _write(
        self,
        home: Mapping[int, int],
        layout: Layout,
        scale: Tensor,
        weights: Tensor | None,
        first: Mapping[int, int] | None = None,
    ) -> None:
        """Merges the gradients of some parameters, whose segments are given by place, and frees them."""
        tasks, clip_value = len(self.call.task_weights), self.call.rules.clip_value
        for places in split(list(home), self.tensors):
            params = [self.tensors[p] for p in places]
            rows = columns(self.rows, len(self.tensors), places)
            out = [
                torch.empty_like(param, dtype=dtype)
                for param, dtype in zip(params, dtypes_of(rows, params), strict=True)
            ]
            segments = tuple(home[p] for p in places)
            if weights is None:
                here = replace(layout, kept=None, segments=segments)
                if any(segment < layout.shared for segment in segments):
                    self.call.method.load_state_dict(self.before)  # all pieces are of one call
                numbers = None if first is None else [first[p] for p in places]
                square = write_coordinates(self.call, rows, out, scale, here, first=numbers)
                self.square = square + self.square
            else:
                ops.merge_(out, rows, weights, None, segments, None, clip_value)
            self.merged.update(zip(places, out, strict=True))
            del rows
            self._free(places, range(tasks))


def _clip(weights: Tensor, gram: Tensor, max_norm: float) -> Tensor:
    """The factor that the whole merged gradient is clipped by, from the kernel that clips, without elements."""
    nothing = [torch.empty(0, device=weights.device) for _ in weights]
    rows = nothing * weights.shape[1]
    return ops.merge_(nothing, rows, weights, gram, range(len(weights)), max_norm)

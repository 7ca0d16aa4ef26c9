"""Steps that cost about one backward: weights measured elsewhere, or some steps ago."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ..gradients.accumulation import Accumulated
from ..gradients.differentiate import differentiate
from ..gradients.layout import NOTHING_REACHED, find_layout
from ..gradients.rows import columns, unscaled
from ..gradients.source import Source
from ..merging.call import Call
from ..merging.merge import find_scale, find_weights, solve
from ..merging.report import Report
from .features import feature_rows
from .known_weights import Known, Measured, known_rows
from .step import Step, as_sparse
from .weighted_sum import as_one_task

__all__ = ["MeasuredElsewhere"]


class MeasuredElsewhere(Step):
    """Decides what each step does, and remembers the weights between steps.

    Weights belong to the tasks that take part: where others do, as in turns and where labels are missing, they are
    measured for those.

    Args:
        exact: The step that is taken where all gradients are measured.
        gram_on: ``"features"``, or parameters, to measure G there; ``None`` to measure it exactly.
        weights_every: In how many steps the weights are solved anew once.
    """

    def __init__(
        self,
        exact: Step,
        gram_on: Literal["features"] | Sequence[Tensor] | None,
        weights_every: int,
    ) -> None:
        super().__init__(exact.source, exact.sink)
        self.exact, self.gram_on, self.weights_every = exact, gram_on, weights_every
        self.takes_features = isinstance(gram_on, str)
        self._known: dict[tuple[int, ...], tuple[Measured, int]] = {}  # by tasks; in which step
        self._begun: dict[tuple[int, ...], Measured] = {}  # of micro-batches

    @property
    def how(self) -> str:  # type: ignore[override]
        """Of the step that measures."""
        return self.exact.how

    def backward(self, call: Call) -> Report:
        """One backward to ``.grad``, or T to measure G."""
        sums = self.take_sums()
        known = self._recall(call)
        if sums is not None:
            report = self._merge_sums(call, known, sums)
        elif known is None and self.gram_on is None:
            report = self.exact.backward(call)
            measured = Measured.of(report)
            if measured is not None:
                heads = call.method.scale_heads(measured.scale.unsqueeze(0), call.shown_losses)
                measured = replace(measured, scale=heads[0])
                self._remember(call, measured)
        else:
            source = as_sparse(self.source, self.sink, call)
            rows = self._rows(call, known, self._can_land(call), source)
            report = rows.write(call, self.sink)
            if known is None:
                self._remember(call, rows.measured)
        return report

    def accumulate(self, call: Call) -> None:
        """Holds the sum of the merged gradients, unclipped, with the weights of the first micro-batch."""
        sums = self.take_sums() or Accumulated()
        if self._begun and not call.tasks.taking_part:  # no label at all
            self.sums = sums
            return
        known = self._recall(call)
        rows = self._rows(call, known, land=False)
        sums.add([rows.folded(call, self.sink)], call.tasks.detached)
        self._begun[_part(call)] = rows.measured
        if rows.measured is not known:
            self._remember(call, rows.measured)
        self.sums = sums

    def forget(self) -> None:
        """As ``zero_grad`` does."""
        super().forget()
        self._begun.clear()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, in types that ``torch.load(weights_only=True)`` reads."""
        return {
            "known": [
                {"present": list(part), "step": step, "measured": vars(measured).copy()}
                for part, (measured, step) in self._known.items()
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, also before weights belonged to tasks."""
        known = state.get("known", [state])
        self._known = {
            tuple(one["present"]): (Measured(**one["measured"]), one["step"])
            for one in known
            if one["measured"] is not None
        }

    def reset(self) -> None:
        """Forgets the weights."""
        self._known.clear()
        self.forget()

    # ---- what is known --------------------------------------------------------------------------

    def _recall(self, call: Call) -> Measured | None:
        """The weights of the micro-batches before this one, or of some steps ago."""
        if _part(call) in self._begun:
            return self._begun[_part(call)]
        measured, step = self._known.get(_part(call), (None, 0))
        return measured if step < call.step < step + self.weights_every else None

    def _remember(self, call: Call, measured: Measured) -> None:
        horizon = call.step - self.weights_every
        self._known = {part: one for part, one in self._known.items() if one[1] > horizon}
        self._known[_part(call)] = measured, call.step

    # ---- gradients ------------------------------------------------------------------------------

    def _rows(
        self, call: Call, known: Measured | None, land: bool, source: Source | None = None
    ) -> Known:
        source = self.source if source is None else source
        if known is not None:
            return known_rows(known, call, source, self.sink, land)
        if isinstance(self.gram_on, str):
            weigh = functools.partial(self._weigh_features, call)
            return feature_rows(weigh, call, source, self.sink, land)
        if self.gram_on is not None:
            rows = differentiate(call.tasks, self.gram_on, retain_graph=True, source=self.source)
            measured = self._weigh(call, self._gram(call, rows, self.gram_on))
            return known_rows(measured, call, source, self.sink, land)
        params = call.params.tensors
        rows = differentiate(call.tasks, params, call.retain_graph, source=self.source)
        return Known(self._weigh_all(call, rows), rows, [None] * len(params), landed=False)

    def _can_land(self, call: Call) -> bool:
        """Whether the merged gradient can go to ``.grad`` at once, which saves a pass over it.

        Not where it is to be clipped or summed over processes, or is added to what only then could not be
        measured any more.
        """
        alone = self.sink.alone and call.rules.max_norm is None
        return alone and all(param.grad is None for param in call.params.tensors)

    def _merge_sums(self, call: Call, known: Measured | None, sums: Accumulated) -> Report:
        """Adds the last micro-batch to the others, and the clipped sum to ``.grad``."""
        if call.tasks.taking_part:
            rows = self._rows(call, known, land=False)
            folded, measured = rows.folded(call, self.sink), rows.measured
        else:  # the last micro-batch has no label at all
            folded = [None] * len(call.params.tensors)
            known = measured = next(iter(self._begun.values()))
        merged, losses = sums.add([folded], call.tasks.detached)
        tasks = call.tasks.summed(losses)
        report = self.sink.merge(as_one_task(call), merged)
        joint = [] if report._gram is None else [report._gram.sum()]
        if known is None:
            self._remember(call, measured)
        self._begun.clear()
        part = tuple(t in tasks.taking_part for t in range(len(tasks.losses)))
        done = measured.report(call, report.clip_scale, joint)
        done._part, done._losses = part, tasks.detached
        return done

    # ---- weights --------------------------------------------------------------------------------

    def _gram(self, call: Call, rows: list[Tensor | None], params: Sequence[Tensor]) -> Tensor:
        """``(1, T, T)``, of gradients of some parameters, summed over the processes before."""
        count = len(call.task_weights)

        def gram(rows: Sequence[Tensor | None]) -> Tensor:
            if all(row is None for row in rows):  # all tasks are in other processes
                return params[0].new_zeros(1, count, count, dtype=torch.float64)
            return unscaled(ops.gram(rows, count), call.scale)

        return self.sink.measure(rows, params, gram)

    def _weigh_features(self, call: Call, rows: list[Tensor | None]) -> Measured:
        """By the gradients at the features. Those of other processes are of other samples: products just add up."""
        count = len(call.task_weights)
        if any(row is not None for row in rows):
            gram = unscaled(ops.gram(rows, count), call.scale)
        else:
            gram = call.tasks.values.new_zeros(1, count, count)
        return self._weigh(call, self.sink.total(gram))

    def _weigh(self, call: Call, gram: Tensor) -> Measured:
        skip = call.rules.nonfinite == "skip_task"
        scale = ops.task_scales(gram, call.weights, None, skip, call.times_skipped)
        losses = call.tasks.values if call.method.uses_losses else None
        heads = call.method.scale_heads(scale, losses)
        return Measured(gram, heads[0], solve(call, gram, scale, losses)[0])

    def _weigh_all(self, call: Call, rows: list[Tensor | None]) -> Measured:
        """By all gradients of a micro-batch, as the exact step does."""
        params, count = call.params.tensors, len(call.task_weights)
        reached = self.sink.anywhere(rows, params)
        layout = find_layout(reached, count, call.params.sets, call.params.shared)
        if layout.total == 0:
            raise ValueError(NOTHING_REACHED)
        kept = range(len(params)) if layout.kept is None else layout.kept
        chosen = [params[p] for p in kept]

        def gram(rows: Sequence[Tensor | None]) -> Tensor:
            return unscaled(ops.gram(rows, count, layout.segments), call.scale)

        measured = self.sink.measure(columns(rows, len(params), list(kept)), chosen, gram)
        scale = find_scale(call, measured, layout)
        weights = find_weights(call, measured, scale, layout.shared)
        heads = call.method.scale_heads(scale[:1], call.shown_losses)
        return Measured(measured[:1], heads[0], weights[0])


def _part(call: Call) -> tuple[int, ...]:
    """Of which tasks weights are."""
    return tuple(call.tasks.taking_part)

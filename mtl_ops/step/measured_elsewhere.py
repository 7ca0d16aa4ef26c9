"""Steps that cost about one backward: weights measured elsewhere, or some steps ago."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from .. import ops
from ..gradients.differentiate import differentiate
from ..gradients.rows import unscaled
from ..merging.call import Call
from ..merging.report import Report
from .exact import fill_grads
from .known_weights import Measured, features_step, joint_step

__all__ = ["CheapSteps"]


class CheapSteps:
    """Decides what each step does, and remembers the weights between steps.

    Args:
        gram_on: ``"features"``, or parameters, to measure G there; ``None`` to measure it exactly.
        weights_every: In how many steps the weights are solved anew once.
    """

    def __init__(
        self, gram_on: Literal["features"] | Sequence[Tensor] | None, weights_every: int
    ) -> None:
        self.gram_on, self.weights_every = gram_on, weights_every
        self._measured: Measured | None = None
        self._step, self._present = 0, [0]

    def backward(self, call: Call, features: Tensor | Sequence[Tensor] | None, step: int) -> Report:
        """One backward to ``.grad``; ``step`` is the number of steps taken so far."""
        tasks = call.tasks
        fresh = self._step < step < self._step + self.weights_every
        if self._measured is not None and fresh and self._present == tasks.taking_part:
            return joint_step(self._measured, call)
        if self.gram_on is None:
            report = fill_grads(call)
            measured = Measured.of(report)
        elif isinstance(self.gram_on, str):
            weigh = functools.partial(_measure, call)
            report, measured = features_step(weigh, call, _as_list(features))
        else:
            rows = differentiate(tasks, self.gram_on, retain_graph=True)
            measured = _measure(call, rows)
            report = joint_step(measured, call)
        self._measured, self._step, self._present = measured, step, tasks.taking_part
        return report

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, in types that ``torch.load(weights_only=True)`` reads."""
        measured = self._measured
        return {
            "measured": None if measured is None else vars(measured).copy(),
            "step": self._step,
            "present": self._present,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        measured = state["measured"]
        self._measured = None if measured is None else Measured(**measured)
        self._step, self._present = state["step"], list(state["present"])

    def reset(self) -> None:
        """Forgets the weights."""
        self._measured = None


def _measure(call: Call, rows: Sequence[Tensor | None]) -> Measured:
    """Weighs the tasks by some of their gradients, ``T × K`` of them."""
    tasks, count = call.tasks, len(call.task_weights)
    if any(row is not None for row in rows):
        gram = unscaled(ops.gram(rows, count), call.scale)
    else:  # all tasks are in other processes
        gram = tasks.values.new_zeros(1, count, count)
    if tasks.parallel is not None:
        # whose features are of other samples: their products just add up
        gram = tasks.parallel.total(gram)
    skip = call.rules.nonfinite == "skip_task"
    scale = ops.task_scales(gram, call.weights, None, skip, call.times_skipped)
    losses = tasks.values if call.method.uses_losses else None
    return Measured(gram, scale[0], call.method.solve(gram, scale, losses, **call.given)[0])


def _as_list(features: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    tensors = [features] if isinstance(features, Tensor) else list(features or ())
    if not tensors or not all(isinstance(f, Tensor) and f.requires_grad for f in tensors):
        raise ValueError(
            'Parameter `features` should be a tensor that requires a gradient, or several, with `gram_on="features"`. '
            f"Found {'None' if features is None else 'something else'}."
        )
    return list({_place(tensor): tensor for tensor in tensors}.values())


def _place(tensor: Tensor) -> tuple[object, int]:
    """The same for two tensors that are one in the graph: a tensor given twice is measured once."""
    node = tensor.grad_fn
    return (id(tensor), 0) if node is None else (node, tensor.output_nr)

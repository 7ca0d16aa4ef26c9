"""Steps that cost about one backward: weights measured elsewhere, or some steps ago."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from .. import ops
from ..gradients.checks import check_owned
from ..gradients.differentiate import differentiate
from ..gradients.rows import unscaled
from ..gradients.tasks import Tasks
from ..merging.report import Report
from ..merging.rules import Rules
from ..methods import Method
from .exact import fill_grads
from .known_weights import Measured, features_step, joint_step
from .weighted_sum import present_weights, taking_part

__all__ = ["CheapSteps", "make_cheap_steps"]


class CheapSteps:
    """Decides what each step does, and remembers the weights between steps.

    Args:
        gram_on: ``"features"``, or parameters, to measure G there; ``None`` to measure it exactly.
        weights_every: In how many steps the weights are solved anew once.

    Raises:
        ValueError: If ``weights_every`` is less than 1, ``gram_on`` is another word or empty, or the
            method or the rules need the whole gradient of every task in every step.
    """

    def __init__(
        self,
        method: Method,
        rules: Rules,
        gram_on: Literal["features"] | Sequence[Tensor] | None,
        weights_every: int,
    ) -> None:
        if (
            isinstance(weights_every, bool)
            or not isinstance(weights_every, int)
            or weights_every < 1
        ):
            raise ValueError(
                "Parameter `weights_every` should be a positive integer. "
                f"Found `weights_every = {weights_every!r}`."
            )
        if gram_on is not None and (
            gram_on != "features" if isinstance(gram_on, str) else not gram_on
        ):
            raise ValueError(
                'Parameter `gram_on` should be None, "features" or parameters. '
                f"Found `gram_on = {gram_on!r}`."
            )
        if method.needs != "gram" or method.tracks or method.learns:
            raise ValueError(
                "Parameters `gram_on` and `weights_every` should be used with a method that needs only the Gram "
                "matrix. "
                f"Found method {method.name!r}."
            )
        for name in ("clip_value", "max_task_norm")[: 1 if gram_on is None else 2]:
            if getattr(rules, name) is not None:
                raise ValueError(
                    f"Parameter `{name}` should be None where not every step has the gradient of every task. "
                    f"Found `{name} = {getattr(rules, name)}`."
                )
        self.method, self.rules = method, rules
        self.gram_on, self.weights_every = gram_on, weights_every
        self._measured: Measured | None = None
        self._step, self._present = 0, [0]

    def backward(
        self,
        tasks: Tasks,
        features: Tensor | Sequence[Tensor] | None,
        params: Sequence[Tensor],
        task_weights: Sequence[float],
        step: int,
        *,
        given: Mapping[str, Any],
        times_skipped: Tensor | None,
        retain_graph: bool,
    ) -> Report:
        """One backward to ``.grad``; ``step`` is the number of steps taken so far."""
        fresh = self._step < step < self._step + self.weights_every
        if self._measured is not None and fresh and self._present == tasks.taking_part:
            return joint_step(self._measured, tasks, params, self.rules, retain_graph)
        weights = present_weights(task_weights, tasks)
        if self.gram_on is None:
            report = fill_grads(
                self.method,
                tasks,
                params,
                task_weights,
                self.rules,
                given=given,
                times_skipped=times_skipped,
                retain_graph=retain_graph,
            )
            measured = Measured.of(report)
            if measured is not None:
                scale = measured.scale.unsqueeze(0)
                losses = taking_part(tasks, weights) if self.method.uses_losses else None
                heads = self.method.scale_heads(scale, losses)
                measured = replace(measured, scale=heads[0])
        else:
            losses = tasks.values if self.method.uses_losses else None
            weigh = functools.partial(
                _measure,
                self.method,
                weights,
                self.rules,
                losses,
                given,
                times_skipped,
                tasks,
            )
            if isinstance(self.gram_on, str):
                report, measured = features_step(
                    weigh, tasks, _as_list(features), params, self.rules, retain_graph
                )
            else:
                measured = weigh(differentiate(tasks, self.gram_on, retain_graph=True))
                report = joint_step(measured, tasks, params, self.rules, retain_graph)
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


def make_cheap_steps(
    method: Method,
    rules: Rules,
    gram_on: Literal["features"] | Iterable[Tensor] | None,
    weights_every: int,
    owned: Sequence[Tensor],
    owner: str,
    whole: bool,
) -> CheapSteps | None:
    """What the optimizer's arguments ask for; ``None`` for exact steps.

    Args:
        method: As of :class:`CheapSteps`.
        rules: As of :class:`CheapSteps`.
        gram_on: As of :class:`CheapSteps`, not checked yet.
        weights_every: As of :class:`CheapSteps`.
        owned: Whose gradients there are.
        owner: How messages call those.
        whole: Whether the tasks share what the graph says, and are weighed once for the whole model.

    Raises:
        ValueError: As :class:`CheapSteps`, or if they are not.
    """
    if gram_on is None and type(weights_every) is int and weights_every == 1:
        return None
    if not whole:
        raise ValueError(
            'Parameters `gram_on` and `weights_every` should be used with `granularity = "model"` and without '
            "`shared`. Found another granularity, or `shared`."
        )
    if not (gram_on is None or isinstance(gram_on, str)):
        gram_on = check_owned("gram_on", gram_on, owned, owner)
    return CheapSteps(method, rules, gram_on, weights_every)


def _measure(
    method: Method,
    task_weights: Sequence[float],
    rules: Rules,
    losses: Tensor | None,
    given: Mapping[str, Any],
    times_skipped: Tensor | None,
    tasks: Tasks,
    rows: Sequence[Tensor | None],
) -> Measured:
    """Weighs the tasks by some of their gradients, ``T × K`` of them."""
    count = len(task_weights)
    if any(row is not None for row in rows):
        gram = unscaled(ops.gram(rows, count), tasks.scale)
    else:  # all tasks are in other processes
        gram = tasks.values.new_zeros(1, count, count)
    if (
        tasks.parallel is not None
    ):  # whose features are of other samples: their products just add up
        gram = tasks.parallel.total(gram)
    scale = ops.task_scales(gram, task_weights, None, rules.nonfinite == "skip_task", times_skipped)
    heads = method.scale_heads(scale, losses)
    return Measured(gram, heads[0], method.solve(gram, scale, losses, **given)[0])


def _as_list(features: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
    tensors = [features] if isinstance(features, Tensor) else list(features or ())
    if not tensors or not all(isinstance(f, Tensor) and f.requires_grad for f in tensors):
        raise ValueError(
            'Parameter `features` should be a tensor that requires a gradient, or several, with `gram_on="features"`. '
            f"Found {'None' if features is None else 'something else'}."
        )
    return tensors

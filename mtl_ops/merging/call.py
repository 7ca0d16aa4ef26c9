"""What one backward is asked for, and which part of its gradients is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..gradients.lazy import Lazy
from ..gradients.parameters import Parameters
from ..gradients.rows import on_device
from ..gradients.tasks import Tasks
from ..methods import Method
from ..ops import rounding_of
from .rules import Rules

__all__ = ["WHOLE", "Call", "Part"]


@dataclass(frozen=True, eq=False)
class Call:
    """One backward, handed on whole.

    Attributes:
        method: What weighs the tasks.
        tasks: The losses.
        params: P parameters that require a gradient.
        task_weights: T numbers, of the tasks that are there and of those that are not.
        rules: Clipping, and what to do about gradients that are not finite.
        given: What the method otherwise draws or remembers.
        times_skipped: ``(T,)`` int64, counts gradients that are not finite; ``None`` if nobody asks.
        retain_graph: Keeps the graph for another backward.
        features: What the heads are computed from, if G is measured there.
        step: How many steps were taken before.
        grad_dtype: What gradients are stored in; ``None`` for the parameters' own dtypes.
    """

    method: Method
    tasks: Tasks
    params: Parameters
    task_weights: Sequence[float]
    rules: Rules = field(default_factory=Rules)
    given: Mapping[str, Any] = field(default_factory=dict)
    times_skipped: Tensor | None = None
    retain_graph: bool = False
    features: Sequence[Tensor] = ()
    step: int = 0
    grad_dtype: torch.dtype | None = None

    @property
    def scale(self) -> Tensor | None:
        """A 0-d factor of all gradients, that of a ``GradScaler``; ``None`` for 1.

        What is measured, and so every threshold, is without it; the merged gradient is with it.
        """
        return self.tasks.scale

    @Lazy
    def weights(self) -> list[float]:
        """T numbers, 0 for a task that takes no part."""
        if self.tasks.stacked is not None:  # all do
            return list(self.task_weights)
        part = set(self.tasks.taking_part)
        return [weight if t in part else 0.0 for t, weight in enumerate(self.task_weights)]

    @Lazy
    def rounding(self) -> float:
        """That of Gram matrices, see :func:`mtl_ops.ops.rounding_of`; the same in all processes."""
        dtypes = {tensor.dtype for tensor in [*self.params.tensors, *self.features]}
        return rounding_of(dtypes if self.grad_dtype is None else dtypes | {self.grad_dtype})

    @Lazy
    def losses(self) -> Tensor:
        """``(T,)`` float64; NaN for a task that takes no part."""
        values, weights = self.tasks.values, self.weights
        if all(weights) or all(weights[t] for t in self.tasks.taking_part):
            return values
        return torch.where(on_device(weights, values.device) != 0, values, torch.nan)

    @property
    def shown_losses(self) -> Tensor | None:
        """The losses if the method looks at them; ``None`` if it does not, and they are not gathered."""
        return self.losses if self.method.uses_losses and self.tasks.valued else None


@dataclass(frozen=True)
class Part:
    """Which elements of the gradients are here; of one process, all.

    Attributes:
        total: Sums what is measured over processes that have a part of the elements each.
        measured: For each parameter whether it is measured here: of processes with the same part, one
            does. ``None`` for all.
        first: For methods that draw: the number of each parameter's first element among the elements
            of all shared parameters. ``None`` if they follow one another from 0.
    """

    total: Callable[[Tensor], Tensor] | None = None
    measured: Sequence[bool] | None = None
    first: Sequence[int] | None = None


#: All elements.
WHOLE = Part()

"""The gradients of all tasks from one backward that is batched over the tasks (``torch.func.vmap``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .graph import node_names
from .reach import leaves_of_each, root
from .storage import store

if TYPE_CHECKING:
    from .tasks import Tasks

__all__ = ["Batching"]


class Batching:
    """Differentiates all losses at once where that works, and remembers where it does not.

    A graph is known by the names of its nodes. Before a kind of graph has worked once it is kept, so
    that it can still be differentiated task by task.
    """

    def __init__(self) -> None:
        self._works: set[frozenset[str]] = set()
        self._fails: set[frozenset[str]] = set()

    def gradients(
        self, tasks: Tasks, params: Sequence[Tensor], retain_graph: bool
    ) -> list[list[Tensor | None]] | None:
        """P gradients of each of T tasks; ``None`` if they have to be computed one by one."""
        losses = [loss for loss in tasks.losses if loss is not None]
        if len(losses) < 2:
            return None
        kind = node_names(losses)
        if kind in self._fails:
            return None
        first = kind not in self._works
        try:
            if "CompiledFunctionBackward" in kind:
                raise RuntimeError("a compiled function cannot be batched")
            found = torch.autograd.grad(
                [root(loss) for loss in losses],  # type: ignore[arg-type]
                params,
                _one_hot(tasks),
                retain_graph=retain_graph or first,
                allow_unused=True,
                is_grads_batched=True,
            )
        except RuntimeError as error:
            if "second time" in str(error):
                return None  # the first task's own backward says it in the user's words
            if not first:
                raise
            self._give_up(kind, error)
            return None
        self._works.add(kind)
        return _split(tasks, params, found)

    def _give_up(self, kind: frozenset[str], error: RuntimeError) -> None:
        if not self._fails:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                "Parameter `batched` should be False for this model: its losses are differentiated one by one. "
                f"Found {reason!r}.",
                stacklevel=2,
            )
        self._fails.add(kind)


def _one_hot(tasks: Tasks) -> list[Tensor]:
    """For each loss a batch of factors of its gradient: its own at its place, and zeros."""
    present = tasks.present
    batches = []
    for place, t in enumerate(present):
        loss, factor = tasks.losses[t], tasks.factor(t)
        assert loss is not None
        batch = loss.new_zeros(len(present), *loss.shape)
        batch[place] = 1.0 if factor is None else factor
        batches.append(batch)
    return batches


def _split(
    tasks: Tasks, params: Sequence[Tensor], found: Sequence[Tensor | None]
) -> list[list[Tensor | None]]:
    """The gradient of each task by itself, where the graph says that it reaches the parameter."""
    gradients: list[list[Tensor | None]] = []
    place = 0
    for loss, reached in zip(tasks.losses, leaves_of_each(tasks.losses), strict=True):
        if loss is None:
            gradients.append([None] * len(params))
            continue
        rows = [
            batch[place] if batch is not None and id(param) in reached else None
            for param, batch in zip(params, found, strict=True)
        ]
        gradients.append(rows if tasks.dtype is None else store(rows, tasks.dtype))
        place += 1
    return gradients

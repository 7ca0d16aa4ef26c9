"""Pruning of what several tasks share, with what it costs each of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.utils import prune

from ..graph import leaves

__all__ = ["Pruned", "prune_shared"]


class Trainable(Protocol):
    """A module with losses by task."""

    def losses(self, batch: Any) -> Mapping[str, Tensor | None]:
        """For each task a 0-d tensor, or ``None`` if it is missing from the batch."""

    def modules(self) -> Iterator[nn.Module]:
        """As ``nn.Module.modules``."""


class Pruned(NamedTuple):
    """What a task's quality was and is."""

    task: str
    before: float
    after: float


def prune_shared(
    model: Trainable,
    amount: float,
    batch: Mapping[str, Any],
    evaluate: Callable[[Any], Mapping[str, float]],
) -> list[Pruned]:
    """Sets the smallest of all shared weights to 0, for good.

    Shared is what the losses of two or more tasks reach. Matrices and convolutions are pruned, by one
    threshold for all of them; biases and normalisations are not.

    Args:
        model: A trained model, changed in place; it has a method ``losses(batch)``, as a
            :class:`MultiTaskModel`.
        amount: The share of the shared weights that becomes 0, in (0, 1).
        batch: One with all tasks, to find out what they share.
        evaluate: The quality of each task, by name.

    Returns:
        For each task its quality before and after.

    Raises:
        ValueError: If ``amount`` is out of range, or nothing is shared.

    Song Han, Jeff Pool, John Tran, William J. Dally, "Learning both Weights and Connections for
    Efficient Neural Networks", NeurIPS 2015.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from mtl_ops.models import SharedBottom
        >>> mse = nn.functional.mse_loss
        >>> heads = {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)}
        >>> model = SharedBottom(nn.Linear(3, 8), heads, {"a": mse, "b": mse})
        >>> batch = {"input": torch.ones(4, 3), "a": torch.zeros(4, 1), "b": torch.zeros(4, 1)}
        >>> def evaluate(model):
        ...     return {task: loss.item() for task, loss in model.losses(batch).items()}
        >>> [row.task for row in prune_shared(model, 0.5, batch, evaluate)]
        ['a', 'b']
        >>> int((model.backbone.weight == 0).sum())
        12
    """
    if not 0.0 < amount < 1.0:
        raise ValueError(
            f"Parameter `amount` should be between 0 and 1. Found `amount = {amount}`."
        )
    losses = [loss for loss in model.losses(batch).values() if loss is not None]
    reached = [leaves([loss]) for loss in losses]
    shared = [
        (module, "weight")
        for module in model.modules()
        if _is_shared(getattr(module, "weight", None), reached)
    ]
    if not shared:
        raise ValueError(
            "Parameter `model` should share weights between tasks. Found none that two losses reach."
        )
    before = dict(evaluate(model))
    prune.global_unstructured(shared, pruning_method=prune.L1Unstructured, amount=amount)
    for module, name in shared:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    after = evaluate(model)
    return [Pruned(task, before[task], after[task]) for task in before]


def _is_shared(weight: object, reached: Sequence[Container[int]]) -> bool:
    matrix = isinstance(weight, nn.Parameter) and weight.dim() > 1
    return matrix and sum(id(weight) in found for found in reached) > 1

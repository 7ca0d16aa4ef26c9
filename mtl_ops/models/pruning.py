"""Pruning of what several tasks share, with what it costs each of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.utils import prune

from ..gradients.reach import leaves_of_each

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

    Shared is what the losses of two or more tasks reach. Matrices and convolutions are pruned, those of
    recurrences and attention too, by one threshold for all of them; biases, normalisations and
    parameters without "weight" in their name, such as learned positions, are not.

    Args:
        model: A trained model with a method ``losses(batch)``, as a :class:`MultiTaskModel`. Changed in
            place; its weights are registered again, so make optimizers anew.
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
    shared = _shared_weights(model, _reached(model, batch))
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


def _reached(model: Trainable, batch: Mapping[str, Any]) -> Sequence[Container[int]]:
    """What each task's loss reaches; in evaluation mode, so that no running statistics move."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        losses = model.losses(batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return leaves_of_each([loss for loss in losses.values() if loss is not None])


def _shared_weights(
    model: Trainable, reached: Sequence[Container[int]]
) -> list[tuple[nn.Module, str]]:
    """Modules and names of the matrices that two losses reach; one that is tied counts once.

    Recurrences and attention have several, such as ``weight_hh_l0`` and ``in_proj_weight``.
    """
    found: dict[int, tuple[nn.Module, str]] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            matrix = "weight" in name and weight.dim() > 1
            if matrix and sum(id(weight) in each for each in reached) > 1:
                found.setdefault(id(weight), (module, name))
    return list(found.values())

"""Time, memory and error of each kind of step on a user's own model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..optim.optimizer import MultiTaskOptimizer
from .cost import StepCost
from .evaluate import Evaluate
from .kinds import kinds_of
from .measure import directions, last_shared_weight, peaks, times
from .saved import left_as_it_was
from .table import show
from .tried import Merged, Plain, Tried

__all__ = ["compare_steps"]


def compare_steps(
    optimizer: MultiTaskOptimizer,
    losses_fn: Callable[[], Any],
    *,
    features: bool = False,
    seconds: float = 5.0,
    verbose: bool = True,
) -> list[StepCost]:
    """Tries every kind of step on a model: what it costs, and how far its direction is from the exact one.

    Parameters, ``.grad``, buffers (of modules that hold one of the optimizer's parameters), random states of
    torch, NumPy and ``random``, the inner optimizer's state and what the optimizer remembers are as before in the
    end. In between the model takes a few steps along the exact direction, since weights that are kept from earlier
    steps are only wrong once the model has moved; an inner optimizer that needs a closure takes none.

    Args:
        optimizer: Its method and options are those of every step; what kind of step it takes is what is varied.
        losses_fn: Evaluates the losses of one batch, always the same, and returns them in any form that
            :meth:`mtl_ops.MultiTaskOptimizer.backward` takes.
        features: Whether ``losses_fn`` returns a pair instead, of the losses and the features (a tensor or a list),
            so that ``gram_on="features"`` can be tried.
        seconds: Roughly how long all kinds are timed together; trying them first takes a few dozen steps more.
        verbose: Prints the table, with ``rich`` where that is installed.

    Returns:
        A row for the plain sum, one for the exact step, and one for every other kind.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``seconds`` is not positive, there are several processes, ``losses_fn`` does not return the
            same losses when it is called again from the same random state, or takes a step itself.

    Example:
        >>> import torch, mtl_ops
        >>> model, x = torch.nn.Linear(3, 2), torch.ones(4, 3)
        >>> optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> losses = lambda: [column.square().mean() for column in (model(x) - 1).T]
        >>> rows = mtl_ops.compare_steps(optimizer, losses, seconds=0.1, verbose=False)
        >>> [row.name for row in rows[:2]]
        ['plain sum', 'exact']
    """
    _check(optimizer, losses_fn, features, seconds, verbose)
    inner = optimizer.optimizer
    params = [param for group in inner.param_groups for param in group["params"]]
    with left_as_it_was(inner, params) as start, _remembering(optimizer):
        only = _only_evaluates(losses_fn, optimizer)
        evaluate = Evaluate(only, features, start, params[0].device)
        layer = last_shared_weight(evaluate().tensors, params)
        kinds = kinds_of(optimizer.settings, layer, features)
        scaler = optimizer.settings.grad_scaler
        tried: list[Tried] = [Plain(evaluate, params, scaler)]
        tried += [Merged(kind, optimizer, evaluate, params) for kind in kinds]
        directions(tried, evaluate, inner, scaler)
        peaks(tried, evaluate)
        times(tried, seconds)
        rows = [one.cost(tried[0]) for one in tried]
    if verbose:
        show(rows)
    return rows


@contextlib.contextmanager
def _remembering(optimizer: MultiTaskOptimizer) -> Iterator[None]:
    """Puts back what the optimizer remembers, which a function may change that does more than it should."""
    merger = optimizer._merger
    before = merger._before()
    try:
        yield
    finally:
        merger._put_back(before)


def _only_evaluates(
    function: Callable[[], Any], optimizer: MultiTaskOptimizer
) -> Callable[[], Any]:
    """The function, refused if it uses the optimizer."""
    progress = optimizer._merger.progress

    def call() -> Any:
        report, steps = progress.report, progress.steps
        found = function()
        if progress.report is not report or progress.steps != steps:
            raise ValueError(
                "Parameter `losses_fn` should only evaluate losses, and leave the rest to this function. "
                "Found a backward or a step of the optimizer in it."
            )
        return found

    return call


def _check(optimizer: Any, losses_fn: Any, features: Any, seconds: Any, verbose: Any) -> None:
    if not isinstance(optimizer, MultiTaskOptimizer):
        raise TypeError(
            "Parameter `optimizer` should be a MultiTaskOptimizer. "
            f"Found {type(optimizer).__name__}."
        )
    if not callable(losses_fn):
        raise TypeError(
            "Parameter `losses_fn` should be a function that returns the losses. "
            f"Found {type(losses_fn).__name__}."
        )
    for name, flag in (("features", features), ("verbose", verbose)):
        if not isinstance(flag, bool):
            raise TypeError(
                f"Parameter `{name}` should be True or False. Found `{name} = {flag!r}`."
            )
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not 0.0 < seconds < math.inf:
        raise ValueError(
            f"Parameter `seconds` should be a positive number. Found `seconds = {seconds!r}`."
        )
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several and torch.distributed.get_world_size() > 1:
        raise ValueError(
            "Parameter `optimizer` should be compared in one process, which times each kind as often as it can. "
            f"Found {torch.distributed.get_world_size()} processes."
        )

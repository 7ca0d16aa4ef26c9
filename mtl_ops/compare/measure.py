"""Angle, memory and time of kinds of steps."""

from __future__ import annotations

import gc
import inspect
import math
import time
import warnings
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..gradients.reach import leaves_of_each
from .evaluate import Evaluate
from .kinds import EXACT, PERIOD
from .peak import can_be_measured, peak
from .tried import Tried

__all__ = ["directions", "last_shared_weight", "peaks", "times"]

#: Fewest rounds of the timing, however slow a step is.
FEWEST = 3


def last_shared_weight(losses: Sequence[Tensor], params: Sequence[Tensor]) -> Tensor | None:
    """The last parameter, in the optimizer's order, that is no vector and that all losses reach."""
    reached = Counter(leaf for leaves in leaves_of_each(losses) for leaf in leaves)
    shared = [p for p in params if reached[id(p)] == len(losses) and p.dim() > 1]
    return shared[-1] if len(losses) > 1 and shared else None


def directions(
    tried: Sequence[Tried],
    evaluate: Evaluate,
    inner: Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """The angle of each to the exact step, at some points along a training with exact steps.

    What cannot be taken says so here. An inner optimizer that needs a closure stays at the first point.
    The steps are taken with gradients that are no longer multiplied by the scale of ``scaler``.
    """
    exact = next(one for one in tried if one.kind is EXACT)
    others = [one for one in tried if one is not exact]
    moves = not _needs_closure(inner)
    for number in range(PERIOD if moves else 1):
        evaluate.again()
        exact.step()
        found = [param.grad for param in exact.params]
        exact.angles.append(_angle(found, found))
        for one in others:
            evaluate.again()
            if one.applies and _taken(one, first=number == 0):
                one.angles.append(_angle([param.grad for param in one.params], found))
        if moves and math.isfinite(exact.angles[-1]):
            for param, grad in zip(exact.params, found, strict=True):
                param.grad = _unscaled(grad, scaler)
            type(inner).step(inner)  # not what a scheduler has put in its place


def peaks(tried: Sequence[Tried], evaluate: Evaluate) -> None:
    """The memory of each, where it can be measured."""
    if not can_be_measured(evaluate.device):
        return
    gc.collect()
    for one in tried:
        if one.applies:
            for param in one.params:
                param.grad = None
            one.peak = peak(one.whole_period, evaluate.device)


def times(tried: Sequence[Tried], seconds: float) -> None:
    """Times all in turn, so that whatever else the machine does slows them alike."""
    applying = [one for one in tried if one.applies]
    end, number = time.perf_counter() + seconds, 0
    while number < FEWEST or time.perf_counter() < end:
        start = number % len(applying)
        for one in applying[start:] + applying[:start]:
            one.readings.append(_seconds(one))
        number += 1


def _seconds(one: Tried) -> float:
    device = one.evaluate.device
    _wait(device)
    start = time.perf_counter()
    one.whole_period()
    _wait(device)
    return (time.perf_counter() - start) / one.period


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _taken(one: Tried, first: bool) -> bool:
    """Takes a step; notes why that cannot be done, or, in the first, what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            one.step()
        except (RuntimeError, TypeError, ValueError) as error:
            one.refuse(str(error))
            return False
    if first and caught:
        one.note = str(caught[0].message)
    return True


def _unscaled(grad: Tensor | None, scaler: torch.amp.GradScaler | None) -> Tensor | None:
    return grad if grad is None or scaler is None else grad / scaler.get_scale()


def _needs_closure(inner: Optimizer) -> bool:
    parameter = inspect.signature(type(inner).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _angle(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Degrees; NaN if one of them is 0."""
    across = _inner(one, other)
    lengths = math.sqrt(_inner(one, one)) * math.sqrt(_inner(other, other))
    if lengths == 0.0 or not math.isfinite(lengths):
        return math.nan
    return math.degrees(math.acos(max(-1.0, min(1.0, across / lengths))))


def _inner(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """In float64; ``None`` is 0."""
    return math.fsum(
        torch.dot(_flat(a), _flat(b)).item()
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None
    )


def _flat(grad: Tensor) -> Tensor:
    dense = grad.to_dense() if grad.layout != torch.strided else grad
    return dense.flatten().double()

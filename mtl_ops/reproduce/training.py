"""One training as papers have them: a validation part chooses the epoch, the test part is looked at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import MultiTaskOptimizer
from ..data import Batch, Goal, Loader
from ..demo.spec import make_method

__all__ = ["SUM", "Outcome", "Plan", "Schedule", "evaluate", "train"]

#: The losses summed, one backward, the bare optimizer: the first row of every table.
SUM = "sum"
#: Is told the criterion of the validation part after each epoch.
Schedule = Callable[[float], None]


@dataclass(frozen=True)
class Plan:
    """How one model is trained.

    Attributes:
        method: As on the command line, see :mod:`mtl_ops.demo.spec`; ``"sum"`` is a bare sum.
        epochs, batch_size: Length of the training, and examples of a step.
        learning_rate, weight_decay: Of the optimizer.
        optimizer: ``"adamw"``, or ``"adam"``, as many papers have it.
    """

    method: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    optimizer: str = "adamw"


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        test: The metric of each task on the test part, in the epoch that validation chose.
        validation: On the validation part.
        criterion: The number by which that epoch was chosen, the larger the better.
        epoch: Its number, from 1 on; 0 if no epoch has a criterion that is a number: the training has diverged, and
            all of the above is NaN.
        seconds: Of training alone, without evaluation.
    """

    test: dict[str, float]
    validation: dict[str, float]
    criterion: float
    epoch: int
    seconds: float


def train(
    plan: Plan,
    model: Any,
    parts: tuple[Batch, Batch, Batch],
    goals: Mapping[str, Goal],
    criterion: Callable[[dict[str, float]], float],
    seed: int,
    schedule: Callable[[torch.optim.Optimizer], Schedule] | None = None,
    looks_at_test: bool = True,
) -> Outcome:
    """Train, and report the test part in the best epoch of the validation part.

    Args:
        plan: The method and how it is trained.
        model: With ``losses(batch)``; its initial weights are the caller's affair.
        parts: Train, validation, test.
        goals: Of the model's tasks.
        criterion: From the metrics of the validation part to a number, the larger the better.
        seed: Of the order of the batches.
        schedule: Makes what changes the learning rate after an epoch; ``None``: it stays.
        looks_at_test: Whether the test part is evaluated, once, in the end; not while one tunes.
    """
    inner = _inner(plan, model)
    optimizer: torch.optim.Optimizer = inner
    observes = False
    if plan.method != SUM:
        method = make_method(plan.method)
        observes = method.observes
        optimizer = MultiTaskOptimizer(inner, method, tasks=list(goals))
    after_epoch = schedule(optimizer) if schedule is not None else None
    loader = Loader(parts[0], plan.batch_size)
    generator = torch.Generator().manual_seed(seed)
    best: tuple[float, int, dict[str, float], dict[str, Any]] | None = None
    seconds, clock = 0.0, _clock(model)
    for epoch in range(1, plan.epochs + 1):
        model.train()
        start = clock()
        for batch in loader.epoch(generator):
            _step(model, optimizer, batch, observes)
        seconds += clock() - start
        validation = evaluate(model, parts[1], goals)
        reached = criterion(validation)
        if reached == reached and (best is None or reached > best[0]):
            best = reached, epoch, validation, deepcopy(model.state_dict())
        if after_epoch is not None:
            after_epoch(reached)
    if best is None:
        nothing = dict.fromkeys(goals, math.nan)
        return Outcome(nothing if looks_at_test else {}, nothing, math.nan, 0, seconds)
    reached, chosen, validation, state = best
    model.load_state_dict(state)
    test = evaluate(model, parts[2], goals) if looks_at_test else {}
    return Outcome(test, validation, reached, chosen, seconds)


@torch.no_grad()
def evaluate(
    model: Any, part: Batch, goals: Mapping[str, Goal], size: int = 2048
) -> dict[str, float]:
    """The metric of each task on a part of the data."""
    model.eval()
    tallies: dict[str, Tensor] = {}
    for batch in Loader(part, size).parts(size):
        outputs = model(batch["input"])
        for task, goal in goals.items():
            tally = goal.tally(outputs[task], batch[task])
            tallies[task] = tallies[task] + tally if task in tallies else tally
    return {task: goals[task].figure(tally).item() for task, tally in tallies.items()}


def _clock(model: nn.Module) -> Callable[[], float]:
    """The processor's time, which others on the machine change little; beside a GPU, that of the wall."""
    on_gpu = next(model.parameters()).device.type != "cpu"
    return time.perf_counter if on_gpu else time.process_time


def _inner(plan: Plan, model: nn.Module) -> torch.optim.Optimizer:
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    given: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
    return kinds[plan.optimizer](model.parameters(), **given)


def _step(
    model: Any, optimizer: torch.optim.Optimizer, batch: Batch, observes: bool
) -> Sequence[Tensor]:
    optimizer.zero_grad()
    losses = model.losses(batch)
    if isinstance(optimizer, MultiTaskOptimizer):
        optimizer.backward(losses)
        optimizer.step()
        if observes:
            with torch.no_grad():
                optimizer.observe(model.losses(batch))
    else:
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return list(losses.values())

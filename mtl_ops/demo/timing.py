"""What a step costs: all methods side by side, so that a busy machine slows them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from ..data import Batch, Split
from .config import PLAIN, SINGLE, Config, Run
from .trainer import Trainer

__all__ = ["Timing", "measure"]

#: For each label: median, first and third quartile, in milliseconds.
Timing = dict[str, dict[str, float]]

WARM_UP = 3


def measure(
    config: Config,
    methods: Sequence[str],
    split: Split,
    rounds: int,
    on_step: Callable[[], None] = lambda: None,
) -> Timing:
    """Time whole training steps (forward, backward, merge, update), interleaved.

    In each round every contender takes one step on the same batch, and each round starts with the
    next contender. Nothing is read back from the optimizer's report meanwhile.

    Args:
        config: Its first seed decides the initial weights and the batch.
        methods: Names; the plain sum and the single tasks are timed besides.
        split: The data, on the device already.
        rounds: Steps of each contender that count, after three that do not.
        on_step: Called after every step.

    Returns:
        For ``"plain"``, each method, and each ``"single-<task>"`` the median and quartiles.
    """
    seed = config.seeds[0]
    trainers = [
        *(Trainer(config, Run(SINGLE, seed, (task,)), split) for task in config.tasks),
        *(Trainer(config, Run(method, seed, config.tasks), split) for method in (PLAIN, *methods)),
    ]
    # The first batch of an epoch lacks no task.
    batches = {trainer.run.label: next(trainer.batches()) for trainer in trainers}
    times: dict[str, list[float]] = {trainer.run.label: [] for trainer in trainers}
    for count in range(WARM_UP + rounds):
        start = count % len(trainers)
        for trainer in trainers[start:] + trainers[:start]:
            elapsed = _time_step(trainer, batches[trainer.run.label])
            on_step()
            if count >= WARM_UP:
                times[trainer.run.label].append(1e3 * elapsed)
    return {label: _quartiles(values) for label, values in times.items()}


def _time_step(trainer: Trainer, batch: Batch) -> float:
    """Seconds of one step, until the device is done."""
    device = torch.device(trainer.config.device)
    _synchronize(device)
    start = time.perf_counter()
    trainer.step(batch)
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _quartiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}

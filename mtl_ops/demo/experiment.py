"""All trainings of an experiment, one after the other, each taken up where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ..data import Loader, Split, move
from .checkpoint import load_checkpoint, load_json, save_checkpoint, save_json
from .config import PLAIN, SINGLE, Config, Run
from .events import Events
from .files import Layout
from .timing import WARM_UP, Timing, measure
from .trainer import History, Trainer

__all__ = ["Listener", "load_data", "run_all", "run_timing"]

#: Rounds of the side-by-side timing.
ROUNDS = 40


class Listener(Protocol):
    """Someone who watches: the progress bar, or nobody."""

    def start(self, total: float) -> None:
        """``total`` units of work lie ahead, done ones of an earlier session included."""

    def describe(self, text: str) -> None:
        """``text`` is what happens now."""

    def advance(self, amount: float, *, skipped: bool = False) -> None:
        """``amount`` units are done; ``skipped`` if they were done in an earlier session."""


def load_data(config: Config, seed: int) -> Split:
    """The data of one seed on the device, where they stay."""
    train, test = config.problem.load(seed, config.size)
    return Split(move(train, config.device), move(test, config.device))


def run_all(
    config: Config, methods: Sequence[str], first: Split, layout: Layout, listener: Listener
) -> dict[Run, History]:
    """Train what is not trained yet.

    Args:
        config: What the user asks for.
        methods: Those that are trained.
        first: The data of the first seed.
        layout: Where everything is written.
        listener: Who watches.

    Returns:
        For every run its history: per epoch the training loss and the test metric of each
        task, and for methods the number of conflicting steps and the mean cosines.
    """
    runs = config.runs(methods)
    splits = {config.seeds[0]: first}
    splits |= {seed: load_data(config, seed) for seed in config.seeds[1:]}
    timing_work = sum((WARM_UP + ROUNDS) * _cost(run) for run in runs if run.seed == runs[0].seed)
    work = (_steps(config, run, splits[run.seed]) * config.epochs * _cost(run) for run in runs)
    listener.start(sum(work) + timing_work)
    return {run: _train(config, run, splits[run.seed], layout, listener) for run in runs}


def run_timing(
    config: Config, methods: Sequence[str], first: Split, layout: Layout, listener: Listener
) -> Timing:
    """Time the steps, unless the folder holds the times of all these methods already.

    A method that came later is not timed alone: its ratio to the plain sum needs both measured
    together.
    """
    runs = [run for run in config.runs(methods) if run.seed == config.seeds[0]]
    work = [_cost(run) for run in runs]
    stored: Timing | None = load_json(layout.timing)
    if stored is not None and all(run.label in stored for run in runs):
        listener.advance((WARM_UP + ROUNDS) * sum(work), skipped=True)
        return stored
    listener.describe("timing the steps, all methods in turn")
    share = sum(work) / len(work)
    with _fork(config):
        times = measure(config, methods, first, ROUNDS, lambda: listener.advance(share))
    save_json(layout.timing, times)
    return times


def _train(config: Config, run: Run, split: Split, layout: Layout, listener: Listener) -> History:
    """One run from its checkpoint, or from the start, to its last epoch."""
    path = layout.checkpoint(run)
    state = load_checkpoint(path, config.device)
    if state is not None:
        done = state["epoch"] * _steps(config, run, split)
        listener.advance(done * _cost(run), skipped=True)
        if state["epoch"] >= config.epochs:
            history: History = state["history"]
            return history
    with _fork(config):
        trainer = Trainer(config, run, split)
        if state is not None:
            trainer.load_state_dict(state)
        with Events(layout.tensorboard, run, trainer.history) as events:
            while trainer.epoch < config.epochs:
                listener.describe(
                    f"{run.label}, seed {run.seed}, epoch {trainer.epoch + 1} of {config.epochs}"
                )
                trainer.train_epoch(lambda: listener.advance(_cost(run)))
                # Logged first: of a run that is saved as finished nothing is logged any more.
                events.log(trainer.history)
                save_checkpoint(path, _to_save(trainer, config))
    return trainer.history


def _to_save(trainer: Trainer, config: Config) -> dict[str, Any]:
    """The whole state, or of a finished run only what is of use later."""
    state = trainer.state_dict()
    if trainer.epoch < config.epochs:
        return state
    return {name: state[name] for name in ("epoch", "history", "model")}


def _steps(config: Config, run: Run, split: Split) -> int:
    """Steps in an epoch."""
    return Loader(split.train, config.batch_size, run.tasks).steps


def _cost(run: Run) -> float:
    """Rough work of a step, in halves of a single task's, so that the time left is about right."""
    if run.method == SINGLE:
        return 2.0
    return 2.2 if run.method == PLAIN else 1.0 + len(run.tasks)


def _fork(config: Config) -> Any:
    """Leave the caller's random state as it was."""
    device = torch.device(config.device)
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])

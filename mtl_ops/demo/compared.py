"""The kinds of step, tried on an example instead of training it."""

from __future__ import annotations

from typing import Any

import torch

from .. import MultiTaskOptimizer
from ..compare import StepCost, compare_steps
from ..data import Split
from .config import ALL, Config, Run
from .options import refuse
from .trainer import Trainer

__all__ = ["check_given", "try_steps"]

#: The method of the steps, if none is named.
METHOD = "upgrad"
#: How long the kinds are timed.
SECONDS = 5.0
#: Options that belong to a training.
_OF_TRAININGS = {
    "groups": "--groups",
    "epochs": "--epochs",
    "resume": "--resume",
    "out": "--out",
    "prune": "--prune",
}


def check_given(given: dict[str, Any]) -> str:
    """The method to use; refuses what only a training has, and more than one method."""
    for name, option in _OF_TRAININGS.items():
        if given.get(name):
            refuse(option, "is for a training, and --compare-steps trains nothing.")
    chosen = given.get("methods") or (METHOD,)
    if len(chosen) > 1 or ALL in chosen:
        refuse("--method", "should be one with --compare-steps.")
    return str(chosen[0])


def try_steps(config: Config, method: str, split: Split) -> list[StepCost]:
    """Of a batch that lacks no task, at the start of a training."""
    devices = [config.device] if torch.device(config.device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trainer = Trainer(config, Run(method, config.seeds[0], config.tasks), split)
        optimizer, batch = trainer.optimizer, next(trainer.batches())
        assert isinstance(optimizer, MultiTaskOptimizer)
        return compare_steps(
            optimizer, lambda: trainer.losses(batch), seconds=SECONDS, verbose=False
        )

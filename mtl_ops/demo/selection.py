"""Which methods take part."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import methods
from ..data import Split
from .config import ALL, PLAIN, SINGLE, Config, Run
from .trainer import Trainer

__all__ = ["select"]

#: What a method may answer with when the experiment does not offer what it needs.
REFUSALS = (TypeError, ValueError, NotImplementedError)


def select(config: Config, split: Split) -> tuple[list[str], dict[str, str]]:
    """Names of the methods that can be trained here, and of those that cannot, with the reason.

    A method is left out if its constructor asks for arguments or its first step is refused. That
    holds for the methods nobody named; one that the user named raises its own error instead.

    Raises:
        ValueError: If nothing is left.
    """
    names, named = _names(config)
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in names:
        if name in (SINGLE, PLAIN):
            left_out[name] = "the name is taken by a baseline of this experiment"
            continue
        try:
            _try(name, config, split)
        except REFUSALS as error:
            if named:
                raise
            left_out[name] = str(error)
        else:
            chosen.append(name)
    if not chosen:
        raise ValueError(f"No method can be trained. Left out: {left_out}.")
    return chosen, left_out


def _names(config: Config) -> tuple[Sequence[str], bool]:
    """The names to try, and whether the user named each of them."""
    known = methods.available()
    if config.methods is None:
        return [name for name in config.problem.methods if name in known], False
    return (known, False) if ALL in config.methods else (config.methods, True)


def _try(name: str, config: Config, split: Split) -> None:
    """Take one step with the method, on a model that is thrown away."""
    devices = [config.device] if torch.device(config.device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trainer = Trainer(config, Run(name, config.seeds[0], config.tasks), split)
        trainer.step(next(trainer.batches()))

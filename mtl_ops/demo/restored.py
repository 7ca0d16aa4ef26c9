"""Trainings that are taken up again: what a checkpoint must hold to be this training's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..data import Split
from .checkpoint import DamagedError, last_good, load_checkpoint
from .config import Config, Run
from .files import RunFolder
from .trainer import History, Trainer

__all__ = ["Restored", "restore", "restore_model", "state_to_save"]


class Restored(NamedTuple):
    """What an earlier session left of one training.

    Attributes:
        history: Its epochs so far.
        trainer: Ready to go on; ``None`` if the training is finished.
    """

    history: History
    trainer: Trainer | None


def state_to_save(trainer: Trainer) -> dict[str, Any]:
    """The whole state, or of a finished run only what is of use later, and whose it is."""
    state = trainer.state_dict()
    if trainer.epoch >= trainer.config.epochs:
        state = {name: state[name] for name in ("epoch", "history", "model")}
    return {**state, "run": trainer.run.name, "config": trainer.config.identity()}


def restore(
    config: Config, run: Run, split: Split, folder: RunFolder, say: Callable[[str], None]
) -> Restored | None:
    """The training from its newest whole checkpoint; ``None`` if there is none.

    Draws from torch's global generator, as :class:`Trainer` does.

    Args:
        config: What the user asks for.
        run: The training.
        split: Its data, on the device already.
        folder: Where the checkpoints are.
        say: Gets a sentence if the newest is damaged and the one before is taken.

    Raises:
        FolderError: If there are checkpoints and none of them is this training's.
    """

    def read(path: Path) -> Restored | None:
        state = _state(config, run, path)
        if state is None:
            return None
        if state["epoch"] == config.epochs:
            return Restored(state["history"], None)
        trainer = Trainer(config, run, split)
        _take(trainer.load_state_dict, state)
        return Restored(trainer.history, trainer)

    return last_good(folder.checkpoint(run), read, say)


def restore_model(trainer: Trainer, folder: RunFolder) -> None:
    """The weights of a run that is finished; no other state is touched.

    Raises:
        FolderError: If there is no checkpoint of them that is whole.
    """

    def read(path: Path) -> bool | None:
        state = _state(trainer.config, trainer.run, path)
        if state is None:
            return None
        if state["epoch"] < trainer.config.epochs:
            raise DamagedError("is not of a finished training")
        _take(trainer.model.load_state_dict, state["model"])
        return True

    # Nothing is said: what is kept from before is of an earlier epoch, and so never taken.
    last_good(folder.checkpoint(trainer.run), read, lambda text: None)


def _state(config: Config, run: Run, path: Path) -> dict[str, Any] | None:
    """A checkpoint that is whole and this run's."""
    state = load_checkpoint(path, config.device)
    if state is None:
        return None
    if state.get("run") != run.name or state.get("config") != config.identity():
        raise DamagedError(f"is not of this training ({run.name})")
    epoch = state.get("epoch")
    if type(epoch) is not int or not 1 <= epoch <= config.epochs or "model" not in state:
        raise DamagedError("is no checkpoint of a training")
    if not _is_history(state.get("history"), epoch, _widths(config, run)):
        raise DamagedError("holds no record of the epochs that it counts")
    return state


def _take(load: Callable[[Any], object], state: Any) -> None:
    """Load a state that may fit another model or optimizer."""
    try:
        load(state)
    except Exception as error:
        # What optimizers and methods raise on a state that is not theirs has no common type.
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".:")
        raise DamagedError(f"does not fit this training ({reason})") from error


def _widths(config: Config, run: Run) -> dict[str, int]:
    """Figures of an epoch, in each part of the history that has more than one."""
    tasks = len(run.tasks)
    return {
        "loss": tasks,
        "metric": tasks,
        "weight": tasks,
        "cosine": tasks * (tasks - 1) // 2,
        "overall": len(config.problem.overall_names),
    }


def _is_history(history: Any, epochs: int, widths: dict[str, int]) -> bool:
    """Whether it has a row of figures for each epoch, as :class:`Trainer` writes it."""
    if not isinstance(history, dict) or not {"loss", "metric", "steps", "conflicts"} <= set(
        history
    ):
        return False
    for name, rows in history.items():
        if not isinstance(rows, list) or ((rows or name != "conflicts") and len(rows) != epochs):
            return False
        if name not in widths:
            if not all(type(count) is int and count >= 0 for count in rows):
                return False
        elif not all(_are_numbers(row, widths[name]) for row in rows):
            return False
    return True


def _are_numbers(row: Any, width: int) -> bool:
    return isinstance(row, list) and [type(value) for value in row] == [float] * width

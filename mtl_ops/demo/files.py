"""What is written where, and who may write there."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import examples
from .checkpoint import DamagedError, load_json, save_json
from .config import EXTENT, Config, Run
from .stored import read_options
from .writer import FolderError, locked

__all__ = ["FolderError", "RunFolder", "find_folder", "open_folder", "read_config"]

#: Where experiments go whose folder nobody named: here by the example's name, then with -2, -3, ...
DEFAULT_FOLDER = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """The files of one experiment.

    Attributes:
        root: The folder that holds all of them.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The options, written first: a folder without it holds no experiment."""
        return self.root / "config.json"

    @property
    def timing(self) -> Path:
        """The times of the steps."""
        return self.root / "timing.json"

    @property
    def results(self) -> Path:
        """All figures and histories."""
        return self.root / "results.json"

    @property
    def table(self) -> Path:
        """The final table as plain text."""
        return self.root / "table.txt"

    @property
    def tensorboard(self) -> Path:
        """The folder of the event files."""
        return self.root / "tensorboard"

    def checkpoint(self, run: Run) -> Path:
        """The state of one training."""
        return self.root / "checkpoints" / f"{run.name}.pt"

    def picture(self, name: str) -> Path:
        """One picture."""
        return self.root / f"{name}.png"


def find_folder(out: Path | None, *, resume: bool, example: str | None = None) -> RunFolder:
    """The folder of a new or an earlier experiment; nothing is made yet.

    Args:
        out: What the user named; ``None`` for the next free, or the latest, in
            :data:`DEFAULT_FOLDER`.
        resume: Whether an earlier experiment is wanted.
        example: Which; ``None`` for the default, or to resume the latest of any.
    """
    if out is not None:
        return RunFolder(out)
    return RunFolder(_latest(example) if resume else _next_free(example or Config.example))


def read_config(folder: RunFolder, given: Mapping[str, Any], *, resume: bool) -> Config:
    """The options of the experiment that the folder holds or is to hold.

    Args:
        folder: The folder.
        given: The fields of :class:`Config` that the user named. The rest is the default's in a
            new folder, and the folder's own in an earlier one.
        resume: Whether it is an earlier one.

    Raises:
        FolderError: If there is nothing to resume, the folder was trained with other options, a
            folder that should be new holds something, or it cannot be read.
    """
    with _explained(folder):
        stored = _stored_config(folder)
        if resume:
            return _resumed(folder, stored, given)
        _check_free(folder, stored)
    return Config.of(given)


@contextmanager
def open_folder(folder: RunFolder, config: Config) -> Iterator[None]:
    """Make the folder if need be, and write the options.

    It is locked until the context ends or the process dies, whichever comes first.

    Raises:
        FolderError: If the folder is in use, or cannot be made or written.
    """
    with ExitStack() as stack:
        with _explained(folder):
            folder.root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.root / ".lock", f"Folder {folder.root}"))
            save_json(folder.config, config.to_json())
        yield


def _resumed(folder: RunFolder, stored: Config | None, given: Mapping[str, Any]) -> Config:
    """The folder's options, with more or fewer methods and seeds if the user said so."""
    if stored is None:
        raise FolderError(
            f"Folder {folder.root} holds no experiment to resume; start one without `--resume`."
        )
    for name, value in given.items():
        if name not in EXTENT and getattr(stored, name) != value:
            raise FolderError(
                f"Folder {folder.root} was trained with `{name} = {_plain(getattr(stored, name))}` "
                f"and cannot go on with `{name} = {_plain(value)}`; leave the option out, or "
                "choose another folder."
            )
    return replace(stored, **given)


def _check_free(folder: RunFolder, stored: Config | None) -> None:
    """Nobody's files are overwritten, and none are mixed with ours."""
    if stored is not None:
        raise FolderError(
            f"Folder {folder.root} holds an experiment already; go on with it by `--resume`, or "
            "choose another folder."
        )
    if os.path.lexists(folder.root) and not folder.root.is_dir():
        raise FolderError(f"File {folder.root} is in the way; choose another folder.")
    # Hidden files are what a process leaves that was killed before it had written its options.
    if folder.root.is_dir() and any(path.name[0] != "." for path in folder.root.iterdir()):
        raise FolderError(f"Folder {folder.root} is not empty; choose an empty or a new one.")


def _stored_config(folder: RunFolder) -> Config | None:
    """The options of the experiment in the folder; ``None`` if there is none."""
    try:
        values = load_json(folder.config)
    except DamagedError as error:
        raise FolderError(
            f"File {folder.config} {error} and holds no options of this experiment; choose another "
            "folder."
        ) from error
    if values is None:
        return None
    try:
        return read_options(values)
    except ValueError as error:
        raise FolderError(f"File {folder.config} {error}; choose another folder.") from error


def _next_free(example: str) -> Path:
    """The first name that is not taken."""
    path = DEFAULT_FOLDER / example
    names = (f"{example}-{number}" for number in itertools.count(2))
    while path.exists():
        path = path.with_name(next(names))
    return path


def _latest(example: str | None) -> Path:
    """The one that was opened last; if none holds an experiment, one that will be refused."""
    wanted = "|".join(map(re.escape, [example] if example else examples.names()))
    held = [
        path
        for path in DEFAULT_FOLDER.glob("*")
        if re.fullmatch(rf"({wanted})(-\d+)?", path.name) and RunFolder(path).config.exists()
    ]
    none = DEFAULT_FOLDER / (example or Config.example)
    return max(held, key=lambda path: RunFolder(path).config.stat().st_mtime_ns, default=none)


@contextmanager
def _explained(folder: RunFolder) -> Iterator[None]:
    """What the system refuses, as a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise FolderError(
            f"Folder {folder.root} cannot be used: {error.strerror or error}."
        ) from error


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value

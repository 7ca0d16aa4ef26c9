"""What is written where, and who may write there."""

from __future__ import annotations

import fcntl
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .. import examples
from .checkpoint import load_json, save_json
from .config import EXTENT, Config, Run

__all__ = ["FolderError", "Layout", "find_folder", "open_folder", "read_config"]

#: Where experiments go whose folder nobody named: here by the example's name, then with -2, -3, ...
DEFAULT_FOLDER = Path("runs")


class FolderError(ValueError):
    """A folder cannot be used as asked; the message is one sentence for the user."""


@dataclass(frozen=True)
class Layout:
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


def find_folder(out: Path | None, *, resume: bool, example: str | None = None) -> Layout:
    """The folder of a new or an earlier experiment; nothing is made yet.

    Args:
        out: What the user named; ``None`` for the next free, or the latest, in
            :data:`DEFAULT_FOLDER`.
        resume: Whether an earlier experiment is wanted.
        example: Which; ``None`` for the default, or to resume the latest of any.
    """
    if out is not None:
        return Layout(out)
    return Layout(_latest(example) if resume else _next_free(example or Config.example))


def read_config(layout: Layout, given: Mapping[str, Any], *, resume: bool) -> Config:
    """The options of the experiment that the folder holds or is to hold.

    Args:
        layout: The folder.
        given: The fields of :class:`Config` that the user named. The rest is the default's in a
            new folder, and the folder's own in an earlier one.
        resume: Whether it is an earlier one.

    Raises:
        FolderError: If there is nothing to resume, the folder was trained with other options, a
            folder that should be new holds something, or it cannot be read.
    """
    with _explained(layout):
        stored = _stored_config(layout)
        if resume:
            return _resumed(layout, stored, given)
        _check_free(layout, stored)
    return Config.of(given)


@contextmanager
def open_folder(layout: Layout, config: Config) -> Iterator[None]:
    """Make the folder if need be, and write the options.

    It is locked until the context ends or the process dies, whichever comes first.

    Raises:
        FolderError: If the folder is in use, or cannot be made or written.
    """
    with ExitStack() as stack:
        with _explained(layout):
            layout.root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(layout.root))
            save_json(layout.config, config.to_json())
        yield


def _resumed(layout: Layout, stored: Config | None, given: Mapping[str, Any]) -> Config:
    """The folder's options, with more or fewer methods and seeds if the user said so."""
    if stored is None:
        raise FolderError(
            f"Folder {layout.root} holds no experiment to resume; start one without `--resume`."
        )
    for name, value in given.items():
        if name not in EXTENT and getattr(stored, name) != value:
            raise FolderError(
                f"Folder {layout.root} was trained with `{name} = {_plain(getattr(stored, name))}` "
                f"and cannot go on with `{name} = {_plain(value)}`; leave the option out, or "
                "choose another folder."
            )
    return replace(stored, **given)


def _check_free(layout: Layout, stored: Config | None) -> None:
    """Nobody's files are overwritten, and none are mixed with ours."""
    if stored is not None:
        raise FolderError(
            f"Folder {layout.root} holds an experiment already; go on with it by `--resume`, or "
            "choose another folder."
        )
    # Hidden files are what a process leaves that was killed before it had written its options.
    if layout.root.is_dir() and any(path.name[0] != "." for path in layout.root.iterdir()):
        raise FolderError(f"Folder {layout.root} is not empty; choose an empty or a new one.")


def _stored_config(layout: Layout) -> Config | None:
    """The options of the experiment in the folder; ``None`` if there is none."""
    try:
        values = load_json(layout.config)
    except (json.JSONDecodeError, UnicodeDecodeError):
        values = {}
    if values is None:
        return None
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Config)}:
        raise FolderError(
            f"File {layout.config} holds no options of this experiment; choose another folder."
        )
    return Config.from_json(values)


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
        if re.fullmatch(rf"({wanted})(-\d+)?", path.name) and Layout(path).config.exists()
    ]
    none = DEFAULT_FOLDER / (example or Config.example)
    return max(held, key=lambda path: Layout(path).config.stat().st_mtime_ns, default=none)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes out; the system lets go of the lock however this one ends."""
    with (root / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderError(
                f"Folder {root} is in use by another process; wait for it or choose another."
            ) from error
        yield


@contextmanager
def _explained(layout: Layout) -> Iterator[None]:
    """What the system refuses, as a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise FolderError(f"Folder {layout.root} cannot be used: {error.strerror}.") from error


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value

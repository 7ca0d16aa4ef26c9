"""What readers of local folders have in common: what is missing or does not belong there, and how it is said."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

__all__ = ["DataError", "check_names", "check_regular", "find", "held", "inside", "require"]


class DataError(ValueError):
    """Data are missing or not of the format they should be; the message is one sentence."""


def find(folder: Path, name: str) -> Path | None:
    """The file of that name, or the same with ``.gz`` at the end, or nothing."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def held(folder: Path, name: str) -> bool:
    """Whether the folder means to hold that file: a link that leads nowhere counts."""
    return any(os.path.lexists(folder / each) for each in (name, f"{name}.gz"))


def require(folder: Path, names: Sequence[str], source: str) -> list[Path]:
    """All these files.

    Args:
        folder: Where they should be.
        names: File names, without ``.gz``.
        source: Where people get them.

    Raises:
        DataError: If any is missing.
    """
    found = {name: find(folder, name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise DataError(f"Folder {folder} lacks {', '.join(missing)}; get the files from {source}.")
    return [path for path in found.values() if path is not None]


def check_regular(path: Path, limit: int) -> int:
    """The size of a file, in bytes.

    Args:
        path: The file.
        limit: The largest size that is read.

    Raises:
        DataError: If it is missing, no file (a folder, or a pipe that would never end), or larger.
    """
    if not path.exists():
        raise DataError(f"File {path} is missing.")
    if not path.is_file():
        raise DataError(f"File {path} is no regular file.")
    size = path.stat().st_size
    if size > limit:
        raise DataError(f"File {path} has {size} bytes, and at most {limit} are read.")
    return size


def inside(folder: Path, name: str, where: str) -> Path:
    """The path of a name that a file lists.

    Args:
        folder: What the name is relative to, and must not leave.
        name: As the file has it.
        where: The file and the line, for the message.

    Raises:
        DataError: If the name is absolute, goes up, or leads out by a link.
    """
    relative = Path(name)
    plain = "\0" not in name and not relative.is_absolute() and ".." not in relative.parts
    if plain and relative.parts:
        path = folder / relative
        try:
            if path.resolve().is_relative_to(folder.resolve()):
                return path
        except (OSError, RuntimeError):
            # A circle of links, or a name that no file can have, leads nowhere.
            pass
    raise DataError(f"{where} names {name!r}, which is not inside folder {folder}.")


def check_names(names: Sequence[str], where: str) -> None:
    """Whether names can be those of tasks: keys of a batch beside its input, and of a model's heads.

    Args:
        names: The names.
        where: The file and the line, or the folder, for the message.

    Raises:
        DataError: If one is there twice, or has a meaning of its own.
    """
    modules = nn.ModuleDict()
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DataError(f"{where} names {name!r} twice.")
        if name == "input" or "." in name or not name.isprintable() or hasattr(modules, name):
            raise DataError(f"{where} names {name!r}, which cannot be the name of a task.")

"""The one way in which the commands write files: whole or not at all, whenever the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderError", "backup_of", "locked", "set_aside", "write_file"]


class FolderError(ValueError):
    """A folder or a file in it cannot be used as asked; the message is one sentence for the user."""


def backup_of(path: Path) -> Path:
    """Where :func:`write_file` keeps what was there before."""
    return path.with_name(f"{path.name}.backup")


def write_file(path: Path, data: bytes | memoryview, *, backup: bool = False) -> None:
    """Write beside ``path``, force it to the disk, and rename it, so that no reader sees half a file.

    Args:
        path: Its folder is made if need be.
        data: All of it.
        backup: Whether what is there already is kept, see :func:`backup_of`. Whenever the process
            ends, one of the two is there and whole.

    Raises:
        FolderError: If the system refuses; what was there is as before, and nothing else remains.
    """
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if backup and path.exists():
            os.replace(path, backup_of(path))
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise FolderError(
            f"File {path} cannot be written: {error.strerror or error}; what was there before is "
            "kept."
        ) from error


@contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """Keep other processes out; the system lets go of the lock however this one ends.

    Args:
        lock: A file that is made if need be, and stays: who removed it would let two others in.
        what: What it guards, for the message, as in "Folder runs/digits".

    Raises:
        FolderError: If another process holds it.
    """
    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderError(
                f"{what} is in use by another process; wait for it or choose another."
            ) from error
        yield


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file, so that it is neither lost nor taken for a good one.

    Returns:
        Its new name; ``None`` if there is no such file.

    Raises:
        FolderError: If the system refuses.
    """
    if not os.path.lexists(path):
        return None
    aside = path.with_name(f"{path.name}.damaged")
    try:
        os.replace(path, aside)
    except OSError as error:
        raise FolderError(
            f"File {path} is damaged and cannot be renamed: {error.strerror or error}."
        ) from error
    return aside


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut too; some file systems do not offer it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _remove(temporary: Path) -> None:
    """Room on a full disk; where even that is refused, the first error says it."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return

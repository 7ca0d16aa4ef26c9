"""Checkpoints and JSON: how they are written, and what is made of damaged ones."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .writer import FolderError, backup_of, set_aside, write_file

__all__ = [
    "DamagedError",
    "last_good",
    "load_checkpoint",
    "load_json",
    "save_checkpoint",
    "save_json",
]

T = TypeVar("T")

#: Bytes of a JSON file that is read; ours have thousands.
JSON_LIMIT = 2**24


class DamagedError(ValueError):
    """A file is not what was written there; the message goes on after "File x"."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, and keep what was there before as a backup."""
    # In memory first: torch's own writer has no sentence for a full disk.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_file(path, buffer.getbuffer(), backup=True)


def load_checkpoint(path: Path, device: str) -> dict[str, Any] | None:
    """Read a checkpoint without running code from it; ``None`` if there is none.

    Raises:
        DamagedError: If it is truncated, altered, or something else.
    """
    if not os.path.lexists(path):
        return None
    _check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes checksums and does not look at them when it reads; and it compresses
            # nothing, so that what does expand is not its own.
            stored = all(each.compress_type == zipfile.ZIP_STORED for each in archive.infolist())
            whole = stored and archive.testzip() is None
        state: Any = torch.load(path, map_location=device, weights_only=True) if whole else None
    except Exception:
        # Whatever a parser stumbles over, in bytes that nobody vouches for.
        state = None
    if not isinstance(state, dict):
        raise DamagedError("is damaged, or no checkpoint")
    return state


def last_good(path: Path, read: Callable[[Path], T | None], say: Callable[[str], None]) -> T | None:
    """What ``read`` makes of a file, or if that is damaged, of the backup.

    A damaged file is renamed, and ``say`` gets a sentence about it. ``None`` if there is neither.

    Args:
        path: The file.
        read: Returns ``None`` if there is no such file.
        say: Tells the user.

    Raises:
        FolderError: If neither is whole.
    """
    backup = backup_of(path)
    try:
        found = read(path)
        reason = "is missing"
    except DamagedError as error:
        found, reason = None, str(error)
    if found is not None:
        return found
    try:
        found = read(backup)
    except DamagedError:
        found = None
    if found is not None:
        aside = set_aside(path)
        kept = f" (it is {aside.name} now)" if aside else ""
        say(f"File {path} {reason}{kept}; going on from {backup.name}, the state before it.")
        return found
    if os.path.lexists(path) or os.path.lexists(backup):
        bad = path if os.path.lexists(path) else backup
        raise FolderError(
            f"File {bad} {reason if bad == path else 'is damaged'} and no earlier state of it is "
            "whole; remove it to train that part anew."
        )
    return None


def save_json(path: Path, values: Any) -> None:
    """Write strict JSON; a figure that is not finite becomes ``null``."""
    text = json.dumps(_strict(values), indent=2, allow_nan=False) + "\n"
    write_file(path, text.encode())


def load_json(path: Path) -> Any:
    """Read what :func:`save_json` wrote; ``None`` if there is no such file.

    Raises:
        DamagedError: If it is something else.
    """
    if not os.path.lexists(path):
        return None
    _check_regular(path)
    if path.stat().st_size > JSON_LIMIT:
        raise DamagedError("is far too large")
    try:
        values = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError):
        raise DamagedError("is damaged, or no JSON") from None
    if values is None:
        raise DamagedError("holds nothing")
    return values


def _check_regular(path: Path) -> None:
    """A pipe would never end, and a folder or a broken link cannot be read."""
    if not path.is_file():
        raise DamagedError("is no regular file")


def _strict(value: Any) -> Any:
    """JSON has no word for infinity or NaN, and keys are strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)

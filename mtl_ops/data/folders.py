"""What readers of local folders have in common: files that are missing, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["DataError", "find", "require"]


class DataError(ValueError):
    """Data are missing or not of the format they should be; the message is one sentence."""


def find(folder: Path, name: str) -> Path | None:
    """The file of that name, or the same with ``.gz`` at the end, or nothing."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


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

"""Arrays that take long to read are kept, and are not trusted when they come back."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Say", "cache_folder", "cached", "say_on_stderr"]

Array = npt.NDArray[Any]
#: Someone who is told how far it is.
Say = Callable[[str], None]
#: What says which files, and how they were read, an archive was made of.
STAMP = "made_of"
#: What readers of archives raise where bytes are not what was written. RuntimeError: it seems to be encrypted, or
#: (NotImplementedError) compressed in a way that nobody knows; TypeError: it is one array.
_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    TypeError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)


def say_on_stderr(text: str) -> None:
    """A line for who waits."""
    print(text, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """``$MTL_OPS_CACHE``, or ``mtl-ops`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``.

    Raises:
        RuntimeError: If it is in the home of a user who has none, as in a container that runs as a bare number.
    """
    own = os.environ.get("MTL_OPS_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mtl-ops"


def cached(
    name: str,
    sources: Sequence[Path],
    version: int,
    make: Callable[[Say], dict[str, Array]],
    say: Say = say_on_stderr,
) -> dict[str, Array]:
    """Arrays from an archive, or made anew and kept.

    An archive counts only if it was made of these very files (their names, sizes and times) by the
    same version of the reader, and is whole: every array carries a checksum. Otherwise it is said,
    and made again. It is written beside its place and moved there, so a half-written one is
    never read; where it cannot be written nothing is kept.

    Args:
        name: Of the archive, without its ending.
        sources: The files that it is made of.
        version: Of the reader; another one makes other arrays.
        make: Reads the files; it is given ``say``.
        say: Is told what takes long.

    Raises:
        DataError: What ``make`` raises; nothing is kept then.
    """
    try:
        path = cache_folder() / f"{name}.npz"
    except RuntimeError:
        say("This user has no home folder, so nothing is kept; set MTL_OPS_CACHE to a folder.")
        return make(say)
    stamp = _stamp(sources, version)
    try:
        found = _load(path)
    except FileNotFoundError:
        found = {}
    except _BROKEN:
        say(f"The cache {path} is broken or half-written; it is made again.")
        found = {}
    if found and str(found.pop(STAMP, "")) == stamp:
        return found
    arrays = make(say)
    try:
        _save(path, {**arrays, STAMP: np.array(stamp)})
    except OSError as error:
        say(f"The cache {path} cannot be written ({error.strerror or error}); nothing is kept.")
    return arrays


def _stamp(sources: Sequence[Path], version: int) -> str:
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return repr((version, facts))


def _load(path: Path) -> dict[str, Array]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _save(path: Path, arrays: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(number, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise

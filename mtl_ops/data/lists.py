"""Text files line by line, in bounded memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .folders import DataError, check_regular

__all__ = ["read_lines"]

#: Characters of a line and of a whole file; those of the field have hundreds and 30 million.
LINE, WHOLE = 2**16, 2**28


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, from 1, and with what ends them; the file may be compressed.

    Raises:
        DataError: If the file is missing, no UTF-8 text, or larger than any of its kind.
    """
    check_regular(path, WHOLE)
    total = number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(LINE + 1):
                number += 1
                total += len(line)
                if len(line) > LINE or total > WHOLE:
                    most = f"{LINE} characters" if len(line) > LINE else f"{WHOLE} in all"
                    raise DataError(f"File {path} has more than {most} in line {number}.")
                if "\0" in line:
                    raise DataError(f"File {path} is no text file: a zero byte in line {number}.")
                yield number, line
    except UnicodeDecodeError:
        raise DataError(f"File {path} is no text file in UTF-8, after line {number}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"File {path} is truncated, or cannot be read ({error}).") from None


def _opened(path: Path) -> IO[str]:
    # A mark of the byte order at the beginning is no part of the first word.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")

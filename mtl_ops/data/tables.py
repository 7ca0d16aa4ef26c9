"""Rows of CSV files that nobody vouches for: what is wrong is said with its file, its line and a remedy."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from .folders import DataError, check_regular

__all__ = ["Csv", "categories", "numbers"]

Array = npt.NDArray[Any]

#: Bytes of a file as it lies on the disk.
LIMIT = 2**30
#: Characters of a field; QM9's longest, the coordinates of 29 atoms, has 1,300.
FIELD = 2**14
#: Rows that are read at a time.
PIECE = 4096


@dataclass(frozen=True)
class Csv:
    """A CSV file, which may be compressed (``.gz``, or ``.zip`` with one file in it).

    Attributes:
        path: The file.
        columns: Their names, in their order, or how many there are.
        header: Whether the first line has the names.
        rows: How many rows there should be; ``None`` for any number.
        remedy: What to do if the file is not as it should be, for the end of a sentence.
        most: Rows that are read at most, which bounds the memory that a file can ask for.
    """

    path: Path
    columns: tuple[str, ...]
    header: bool
    rows: int | None
    remedy: str
    most: int = 1_000_000

    def pieces(self) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
        """The line of the first row, and up to 4,096 rows as a tuple of texts for each column.

        Raises:
            DataError: If the file is missing, truncated, no text, has other columns, or another
                number of rows.
        """
        check_regular(self.path, LIMIT)
        line, total = 1, 0
        with self._opened() as file:
            reader = csv.reader(file, skipinitialspace=True)
            if self.header:
                self._check_header(next(reader, []))
                line += 1
            while rows := [row for row in islice(reader, PIECE) if row]:
                for place, row in enumerate(rows):
                    if len(row) != len(self.columns):
                        raise self.error(
                            line + place, f"should have {len(self.columns)} fields, has {len(row)}"
                        )
                total += len(rows)
                if total > self.most:
                    raise self.error(None, f"has more than {self.most} rows")
                yield line, list(zip(*rows, strict=True))
                line += len(rows)
        if total == 0 or self.rows not in (None, total):
            should = "at least one row" if self.rows is None else f"{self.rows} rows"
            raise self.error(None, f"should have {should}, has {total}")

    def error(self, line: int | None, what: str) -> DataError:
        """One sentence with the file, the line and the remedy."""
        where = "" if line is None else f", line {line},"
        return DataError(f"File {self.path}{where} {what}; {self.remedy}.")

    def _check_header(self, names: Sequence[str]) -> None:
        for place, wanted in enumerate(self.columns):
            found = names[place] if place < len(names) else "nothing"
            if found != wanted:
                raise self.error(1, f"should have column '{wanted}', has '{found[:40]}'")
        if len(names) > len(self.columns):
            raise self.error(1, f"should have {len(self.columns)} columns, has {len(names)}")

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        """The text; what is no text, or ends too early, is one sentence as well."""
        before = csv.field_size_limit(FIELD)
        try:
            with _bytes(self.path) as raw:
                yield io.TextIOWrapper(cast(Any, raw), encoding="utf-8", newline="")
        except DataError:
            raise
        except UnicodeDecodeError:
            raise self.error(None, "is no text in UTF-8") from None
        except csv.Error as error:
            raise self.error(None, f"is no CSV file ({error})") from None
        except (EOFError, RuntimeError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile):
            # RuntimeError: encrypted, or (NotImplementedError) compressed in a way that nobody knows
            raise self.error(None, "is truncated, or not compressed as its name says") from None
        finally:
            csv.field_size_limit(before)


@contextmanager
def _bytes(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(path) as packed:
            yield cast(IO[bytes], packed)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise zipfile.BadZipFile
            with archive.open(names[0]) as inner:
                yield inner
    else:
        with path.open("rb") as plain:
            yield plain


def numbers(source: Csv, line: int, column: str, texts: Sequence[str]) -> Array:
    """A column as float64.

    Args:
        source: Where it is from.
        line: Of the first text.
        column: Its name.
        texts: What the file has.

    Raises:
        DataError: If one is no finite number; the message has its line.
    """
    try:
        values = np.array(texts, dtype=np.float64)
    except ValueError:
        values = np.array([_number(text) for text in texts])
    bad = ~np.isfinite(values)
    if bad.any():
        place = int(bad.argmax())
        found = texts[place][:40]
        raise source.error(
            line + place, f"should have a finite number in column '{column}', has '{found}'"
        )
    return values


def categories(texts: Sequence[str], known: dict[str, int], *, grow: bool) -> Array:
    """A column as numbers of categories, from 1 on; 0 is what was not there while they grew.

    Example:
        >>> known: dict[str, int] = {}
        >>> categories(["a", "b", "a"], known, grow=True).tolist()
        [1, 2, 1]
        >>> categories(["b", "c"], known, grow=False).tolist()
        [2, 0]
    """
    if grow:
        for text in texts:
            known.setdefault(text, len(known) + 1)
    return np.array([known.get(text, 0) for text in texts], dtype=np.int32)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

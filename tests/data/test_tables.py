"""CSV files: rows come out, and what is wrong is one sentence with the file, the line and the remedy."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mtl_ops.data import tables
from mtl_ops.data.folders import DataError
from mtl_ops.data.tables import Csv, numbers

TEXT = "a,b\n1, x\n2,y\n3,x\n"


def _source(path: Path, rows: int | None = None, most: int = 1000) -> Csv:
    return Csv(path, ("a", "b"), True, rows, "get it there", most)


def _written(folder: Path, text: str = TEXT) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


def _zipped(folder: Path, names: tuple[str, ...] = ("t.csv",)) -> Path:
    with zipfile.ZipFile(folder / "t.csv.zip", "w") as archive:
        for name in names:
            archive.writestr(name, TEXT)
    return folder / "t.csv.zip"


def _gzipped(folder: Path) -> Path:
    (folder / "t.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    return folder / "t.csv.gz"


@pytest.mark.parametrize("write", [_written, _zipped, _gzipped])
def test_rows_come_out_by_column(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    assert list(_source(write(tmp_path), rows=3).pieces()) == [
        (2, [("1", "2", "3"), ("x", "y", "x")])
    ]


def test_lines_are_counted_over_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE", 2)
    source = _source(_written(tmp_path, TEXT + "4\n"))
    with pytest.raises(
        DataError, match=r"t\.csv, line 5, should have 2 fields, has 1; get it there\.$"
    ):
        list(source.pieces())
    good = _source(_written(tmp_path, TEXT + "no,x\n"))
    with pytest.raises(
        DataError, match="line 5, should have a finite number in column 'a', has 'no'"
    ):
        for line, (first, _) in good.pieces():
            numbers(good, line, "a", first)


def _truncated(folder: Path) -> Path:
    path = folder / "t.csv.gz"
    packed = gzip.compress(TEXT.encode() * 200)
    path.write_bytes(packed[: len(packed) // 2])
    return path


def _no_archive(folder: Path) -> Path:
    (folder / "t.csv.zip").write_bytes(b"PK nothing")
    return folder / "t.csv.zip"


def _bytes(folder: Path) -> Path:
    (folder / "t.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    return folder / "t.csv"


def _long(folder: Path) -> Path:
    return _written(folder, "a,b\n" + "x" * 20_000 + ",1\n")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_truncated, "t.csv.gz is truncated, or not compressed as its name says"),
        (_no_archive, "t.csv.zip is truncated, or not compressed as its name says"),
        (lambda folder: _zipped(folder, ("a.csv", "b.csv")), "truncated, or not compressed"),
        (_bytes, "t.csv is no text in UTF-8"),
        (_long, "t.csv is no CSV file"),
        (lambda folder: folder / "t.csv", "t.csv is missing"),
        (lambda folder: _written(folder, ""), "line 1, should have column 'a', has 'nothing'"),
        (lambda folder: _written(folder, "a,c\n"), "line 1, should have column 'b', has 'c'"),
        (lambda folder: _written(folder, "a,b,c\n"), "line 1, should have 2 columns, has 3"),
        (lambda folder: _written(folder, "a,b\n"), "should have at least one row, has 0"),
        (lambda folder: _written(folder, TEXT * 500), "has more than 1000 rows"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, write: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        list(_source(write(tmp_path)).pieces())
    said = str(caught.value)
    assert message in said
    assert said.endswith(".")
    assert "\n" not in said


def test_the_number_of_rows_is_the_packages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv should have 4 rows, has 3; get it there\.$"):
        list(_source(_written(tmp_path), rows=4).pieces())


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "", "1e999"])
def test_numbers_are_finite(tmp_path: Path, text: str) -> None:
    source = _source(_written(tmp_path))
    with pytest.raises(DataError, match=r"line 8, should have a finite number in column 'a'"):
        numbers(source, 7, "a", ["1", text])

"""Files that ask for memory, lead out of their folder, or hold what is no data of the kind."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import LINES, wav, write_celeba, write_dense, write_office

from mtl_ops.data import lists
from mtl_ops.data.arrays import read_npy
from mtl_ops.data.folders import DataError
from mtl_ops.data.idx import read_idx
from mtl_ops.data.lists import read_lines
from mtl_ops.data.npy_folders import npy_folder
from mtl_ops.data.pictures import _picture, celeba, office
from mtl_ops.data.speech import _read

from .formats import FORMATS, image_file, npy, read_or_refused


def _claiming(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """An npy file that says it has that shape, and holds 64 bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + bytes(64)


def _idx_of(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def _huge_png(width: int, height: int) -> bytes:
    """A picture that says it has that size."""
    data = bytearray(image_file("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def _many_zeros(promised: int, held: int) -> bytes:
    return gzip.compress(_idx_of(promised) + bytes(held))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("npy", lambda: _claiming((204_800, 204_800)), r"335544320000 bytes for shape"),
        ("npy", lambda: _claiming((2**62, 2**62)), "holds 64"),
        ("npy", lambda: _claiming((0, 2**62)), "has shape"),
        ("npy", lambda: _claiming((-1, 8)), "has shape"),
        ("npy", lambda: _claiming((8,), "<m8[s]"), r"should hold numbers and holds timedelta64"),
        ("npy", lambda: _claiming((8,), "<M8[s]"), "should hold numbers and holds datetime64"),
        ("npy", lambda: _claiming((4,), "<c16"), "should hold numbers and holds complex128"),
        ("npy", lambda: _claiming((4,), "<f16"), "should hold numbers and holds"),
        ("npy", lambda: _claiming((4,), "|O"), "should hold numbers and holds object"),
        ("npy", lambda: _claiming((4,), "<U4"), "should hold numbers and holds"),
        ("npy", lambda: npy(np.zeros(3, dtype=[("a", "f4")])), "should hold numbers"),
        ("npy", lambda: npy(np.full(3, 1e300)), "not finite"),
        ("npy", _npz, "truncated, or no npy file of numbers"),
        ("npy", lambda: b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "no npy file of numbers"),
        ("npy", lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "no npy file of numbers"),
        ("idx", lambda: _idx_of(2**32 - 1, 2**32 - 1, 2**32 - 1), "and holds 0"),
        ("idx", lambda: _idx_of(65536, 65536, 65536, 65536), "and holds 0"),
        ("idx", lambda: _idx_of(0, 2**32 - 1), "should hold 0 bytes"),
        ("idx.gz", lambda: _many_zeros(2**30, 10), "no more than"),
        ("idx.gz", lambda: _many_zeros(10, 2**25), "holds more than 10"),
        ("idx.gz", lambda: _many_zeros(20, 19), "and holds 19"),
        ("png", lambda: _huge_png(20_000, 20_000), "pixels"),
        ("png", lambda: _huge_png(9_000, 9_000), r"9000 x 9000 pixels, and at most"),
        ("png", lambda: _huge_png(2**31 - 1, 2**31 - 1), "pixels"),
        ("wav", lambda: wav(np.zeros(9), rate=2_000_000_000), "samples a second and has"),
        ("wav", lambda: wav(np.zeros(9), rate=1), "samples a second and has 1"),
        ("wav", lambda: wav(np.zeros(8000 * 21)), "longer than 20 seconds"),
        ("csv", lambda: b'"1","a",' + b"b" * 70_000 + b"\n", "65536 characters in line 1"),
        ("csv", lambda: LINES.encode() + b'"1","a","\0"\n', "zero byte in line 3"),
        ("csv", lambda: LINES.encode("utf-16"), "no text file"),
    ],
)
def test_what_a_head_asks_for_is_refused_before_memory_is_taken(
    tmp_path: Path, kind: str, data: Callable[[], bytes], message: str
) -> None:
    path = FORMATS[kind].write(tmp_path)
    path.write_bytes(data())
    assert not read_or_refused(path, FORMATS[kind].read)
    with pytest.raises(DataError, match=message):
        FORMATS[kind].read(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """Sparse files, which take no room on the disk."""
    for name, read in (
        ("x.npy", read_npy),
        ("x.jpg", _picture),
        ("0_a_0.wav", _read),
        ("x.gz", read_idx),
        ("x.csv", lambda path: next(read_lines(path))),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**40)
        assert not read_or_refused(tmp_path / name, read)


def test_lines_that_expand_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" * 10_000))
    assert sum(1 for _ in read_lines(path)) == 10_000
    monkeypatch.setattr(lists, "WHOLE", 1000)
    with pytest.raises(DataError, match=r"train\.csv\.gz has more than 1000 in all in line 501"):
        list(read_lines(path))


@pytest.mark.parametrize("name", ["../secret.jpg", "sub/../../secret.jpg", "/etc/hostname", ".."])
@pytest.mark.parametrize("file", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_listed_name_does_not_leave_its_folder(tmp_path: Path, name: str, file: str) -> None:
    write_celeba(tmp_path, 8)
    (tmp_path / "secret.jpg").write_bytes(image_file("JPEG"))
    path = tmp_path / file
    path.write_text(path.read_text().replace("000003.jpg", name))
    with pytest.raises(DataError) as caught:
        celeba(tmp_path)
    assert str(path) in str(caught.value)
    assert f"line {3 if 'eval' in file else 5}" in str(caught.value)


def test_a_listed_link_does_not_lead_out(tmp_path: Path) -> None:
    """One that stays in the folder is as good as a file, and so is a folder that is a link."""
    folder = tmp_path / "celeba"
    write_celeba(folder, 8)
    pictures = folder / "img_align_celeba"
    before = celeba(folder)
    pictures.rename(tmp_path / "elsewhere")
    pictures.symlink_to(tmp_path / "elsewhere")
    first, second = pictures / "000001.jpg", pictures / "moved.jpg"
    first.rename(second)
    first.symlink_to("moved.jpg")
    assert torch.equal(celeba(folder).train["input"], before.train["input"])
    first.unlink()
    second.rename(tmp_path / "secret.jpg")
    first.symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(
        DataError, match=r"list_attr_celeba.txt, line 3, names '000001\.jpg', which"
    ):
        celeba(folder)


@pytest.mark.parametrize("name", ["input", "Bald", "a.b", "keys", "training"])
def test_a_name_that_cannot_be_a_task(tmp_path: Path, name: str) -> None:
    write_celeba(tmp_path / "faces", 8)
    path = tmp_path / "faces" / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("Young", name))
    with pytest.raises(DataError, match=rf"list_attr_celeba.txt, line 2, names '{name}'"):
        celeba(tmp_path / "faces")
    if name != "Bald":  # two folders cannot have one name
        write_office(tmp_path / "office")
        (tmp_path / "office" / "art").rename(tmp_path / "office" / name)
        with pytest.raises(DataError, match=rf"Folder .*office names '{name}', which cannot"):
            office(tmp_path / "office")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((12, 16), 1.5), "whole numbers, and holds 1.5"),
        (np.full((12, 16), 1 + 2j), "should hold numbers and holds complex128"),
        (np.full((12, 16), -2), "classes from -1 to 12"),
        (np.full((12, 16), 2**63, dtype=np.uint64), "classes from -1 to 12"),
        (np.full((12, 16), np.nan), "not finite"),
        (np.full((12, 16), np.inf), "not finite"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, values: np.ndarray, message: str) -> None:
    write_dense(tmp_path)
    np.save(tmp_path / "train" / "label" / "1.npy", values)
    with pytest.raises(DataError, match=message) as caught:
        npy_folder(tmp_path)
    assert str(tmp_path / "train" / "label" / "1.npy") in str(caught.value)

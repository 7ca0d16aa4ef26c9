"""Small valid files of each format, what reads them, and what may come of a spoiled one."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from folders import LINES, idx, wav, write_celeba, write_dense, write_mnist

from mtl_ops.data.arrays import read_npy
from mtl_ops.data.idx import FILES, mnist, read_idx
from mtl_ops.data.npy_folders import npy_folder
from mtl_ops.data.pictures import _picture, celeba
from mtl_ops.data.speech import _read
from mtl_ops.data.text import ag_news

#: Bytes that Python and NumPy may hold at once while a file of some kilobytes is read or refused.
MEMORY = 2**24


class Format(NamedTuple):
    """Makes a valid folder and says which file is spoiled; then reads the file or the folder."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]


def _one(name: str, data: bytes, read: Callable[[Path], Any]) -> Format:
    """A folder with one file."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return Format(write, read)


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def image_file(kind: str) -> bytes:
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (11, 9, 3), dtype=np.uint8)
    image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def _in_folder(write: Callable[[Path], object], name: str, read: Callable[[Path], Any]) -> Format:
    """A folder of several files, of which one is spoiled."""

    def written(folder: Path) -> Path:
        write(folder)
        return folder / name

    return Format(written, lambda path: read(path.parents[len(Path(name).parts) - 1]))


def _news(folder: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text(LINES)


def _small_mnist(folder: Path) -> None:
    write_mnist(folder, 10, 5, side=8)


def _small_celeba(folder: Path) -> None:
    write_celeba(folder, 8)


def _faces(folder: Path) -> Any:
    return celeba(folder, (1, 1))


def _small_dense(folder: Path) -> None:
    write_dense(folder, count=1, size=(4, 5))


NOISE = np.random.default_rng(0)
IDX = idx(NOISE.integers(0, 256, (3, 4, 5)))
FORMATS = {
    "idx": _one("images", IDX, read_idx),
    "idx.gz": _one("images.gz", gzip.compress(IDX), read_idx),
    "labels": _in_folder(_small_mnist, FILES[1], mnist),
    "images": _in_folder(_small_mnist, FILES[2], mnist),
    "npy": _one("0.npy", npy(NOISE.random((4, 5))), read_npy),
    "npy 2": _one("0.npy", npy(np.asfortranarray(NOISE.integers(0, 9, (4, 5, 3)))), read_npy),
    "label": _in_folder(_small_dense, "val/label/0.npy", npy_folder),
    "jpeg": _one("0.jpg", image_file("JPEG"), _picture),
    "png": _one("0.png", image_file("PNG"), _picture),
    "wav": _one("0_ann_0.wav", wav(NOISE.uniform(-1, 1, 99)), _read),
    "csv": _in_folder(_news, "train.csv", ag_news),
    "attributes": _in_folder(_small_celeba, "list_attr_celeba.txt", _faces),
    "partition": _in_folder(_small_celeba, "list_eval_partition.txt", _faces),
}


def read_or_refused(path: Path, read: Callable[[Path], Any]) -> bool:
    """Whether the file is read; any other end than one sentence with its name is a failure."""
    tracemalloc.start()
    try:
        read(path)
        done = True
    except (ValueError, OSError) as error:
        done = False
        said = str(error)
        assert path.name in said, said
        assert "\n" not in said
        assert said.endswith(".")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY
    return done

"""MNIST and FashionMNIST in the IDX format."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import torch

from .digits import Split, standardised
from .folders import DataError, check_regular, held, require

__all__ = ["is_mnist", "mnist", "read_idx"]

Array = npt.NDArray[Any]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
#: Where people get the files.
SOURCE = (
    "torchvision.datasets.MNIST or FashionMNIST (folder raw), yann.lecun.com/exdb/mnist or "
    "github.com/zalandoresearch/fashion-mnist"
)
#: Bytes of a file, before and after it is decompressed; EMNIST's largest has half as many.
LIMIT = 2**30
#: What a byte of gzip can become, at most.
EXPANSION = 1032
#: Bytes that are decompressed at a time.
PIECE = 2**20
#: Pixels in a row and in a column of images.
SIDES = (8, 512)


def is_mnist(folder: Path) -> bool:
    """Whether any of the four files is there."""
    return any(held(folder, name) for name in FILES)


def mnist(folder: Path, limit: int | None = None) -> Split:
    """MNIST, FashionMNIST, or whatever has its format, with the targets of the digits' four tasks.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE, 1998; Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017.

    Args:
        folder: With the four files, compressed or not.
        limit: Images of each part; ``None`` for all.

    Returns:
        As :func:`mtl_ops.data.digits`, with images of the files' size.

    Raises:
        DataError: If a file is missing, truncated, or of another form.
    """
    paths = require(folder, FILES, SOURCE)
    train, train_labels, test, test_labels = (read_idx(path)[:limit] for path in paths)
    for (path, labels), images in (
        ((paths[1], train_labels), train),
        ((paths[3], test_labels), test),
    ):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise DataError(
                f"File {path} should hold one label for each of {len(images)} images and has shape "
                f"{labels.shape}."
            )
        if labels.max(initial=0) > 9 or len(labels) == 0:
            raise DataError(f"File {path} should hold labels from 0 to 9, at least one.")
    for path, images in ((paths[0], train), (paths[2], test)):
        height, width = images.shape[1:]
        if height != width or not SIDES[0] <= height <= SIDES[1] or height != train.shape[1]:
            raise DataError(
                f"File {path} should hold square images of {SIDES[0]} to {SIDES[1]} pixels a side, "
                f"all of one size, and has shape {images.shape}."
            )
    return standardised(
        torch.as_tensor(train, dtype=torch.float32),
        torch.as_tensor(train_labels, dtype=torch.int64),
        torch.as_tensor(test, dtype=torch.float32),
        torch.as_tensor(test_labels, dtype=torch.int64),
    )


def read_idx(path: Path) -> Array:
    """An array of unsigned bytes from an IDX file, which may be compressed.

    No more is read, or decompressed, than the head of the file promises.

    Raises:
        DataError: If it is truncated, not of that format, or larger than any data set of it.
    """
    size = check_regular(path, LIMIT)
    try:
        with _opened(path) as file:
            return _array(path, file, size)
    except (OSError, EOFError, zlib.error):
        raise DataError(f"File {path} is truncated, or no gzip file.") from None


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _array(path: Path, file: IO[bytes], size: int) -> Array:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\x00\x00\x08" or not 1 <= head[3] <= 4:
        raise DataError(f"File {path} is no IDX file of bytes.")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"File {path} is truncated in its head.")
    shape = struct.unpack(f">{head[3]}I", sizes)
    # Of Python's integers, which do not overflow.
    count = math.prod(shape)
    packed = path.suffix == ".gz"
    most = EXPANSION * size if packed else size - 4 - 4 * head[3]
    if not 0 < count <= min(most, LIMIT) or (count < most and not packed):
        found = f"no more than {most}" if packed else most
        raise DataError(f"{_promise(path, shape, count)}{found}.")
    values = bytearray()
    # In pieces, so that memory grows with what is there, and by one byte more than was promised.
    while len(values) <= count and (piece := file.read(min(PIECE, count + 1 - len(values)))):
        values += piece
    if len(values) != count:
        found = f"more than {count}" if len(values) > count else len(values)
        raise DataError(f"{_promise(path, shape, count)}{found}.")
    array: Array = np.frombuffer(values, dtype=np.uint8).reshape(shape)
    return array


def _promise(path: Path, shape: tuple[int, ...], count: int) -> str:
    return f"File {path} should hold {count} bytes after its head, for shape {shape}, and holds "

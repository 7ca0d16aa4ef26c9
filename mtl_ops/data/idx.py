"""MNIST and FashionMNIST in the IDX format."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .digits import Split, standardised
from .folders import DataError, find, require

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


def is_mnist(folder: Path) -> bool:
    """Whether any of the four files is there."""
    return any(find(folder, name) for name in FILES)


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
    return standardised(
        torch.as_tensor(train, dtype=torch.float32),
        torch.as_tensor(train_labels, dtype=torch.int64),
        torch.as_tensor(test, dtype=torch.float32),
        torch.as_tensor(test_labels, dtype=torch.int64),
    )


def read_idx(path: Path) -> Array:
    """An array of unsigned bytes from an IDX file, which may be compressed.

    Raises:
        DataError: If it is truncated, or not of that format.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error):
        raise DataError(f"File {path} is truncated, or no gzip file.") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or not 1 <= data[3] <= 4:
        raise DataError(f"File {path} is no IDX file of bytes.")
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"File {path} is truncated in its head.")
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").tolist())
    count = int(np.prod(shape, dtype=np.int64))
    if len(data) != start + count:
        raise DataError(
            f"File {path} should hold {count} bytes after its head, for shape {shape}, and holds "
            f"{len(data) - start}."
        )
    values: Array = np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
    return np.array(values)

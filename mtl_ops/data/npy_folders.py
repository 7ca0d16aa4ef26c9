"""NYUv2 and Cityscapes as the authors of MTAN have prepared them: one npy file an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .digits import Split
from .folders import DataError
from .task import Batch

__all__ = ["LABELS", "is_npy_folder", "label_folder", "npy_folder"]

Array = npt.NDArray[Any]

#: Where people get the files.
SOURCE = "the links in the README of github.com/lorenmt/mtan"
#: The folder of the labels, and how many classes they have: NYUv2's, and two of Cityscapes.
LABELS = {"label": 13, "label_7": 7, "label_19": 19}
#: Larger images are thinned out by a whole factor, so that the shorter side has at most these pixels.
SIDE = 96


def is_npy_folder(folder: Path) -> bool:
    """Whether there is a train part with images."""
    return (folder / "train" / "image").is_dir()


def label_folder(folder: Path) -> str:
    """The folder of the labels, with the fewest classes first.

    Raises:
        DataError: If there is none.
    """
    for name in ("label_7", "label_19", "label"):
        if (folder / "train" / name).is_dir():
            return name
    raise DataError(
        f"Folder {folder / 'train'} lacks {' and '.join(LABELS)}; get the files from {SOURCE}."
    )


def npy_folder(folder: Path, limit: int | None = None) -> Split:
    """Read images, labels and depths from ``{train,val}/{image,label,depth}/<number>.npy``.

    An image has shape ``(H, W, 3)`` with values in [0, 1], a label ``(H, W)`` (-1: no class) and a
    depth ``(H, W)`` or ``(H, W, 1)`` (0: not known). Pixels are thinned out to at most 96 on the
    shorter side, so that all of it fits into memory and a small network learns from it.

    Silberman, Hoiem, Kohli, Fergus, "Indoor Segmentation and Support Inference from RGBD Images",
    ECCV 2012; Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR
    2016; prepared by Liu, Johns, Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019.

    Args:
        folder: With the folders ``train`` and ``val``.
        limit: Images of each part; ``None`` for all.

    Returns:
        ``input`` ``(n, 3, h, w)`` float32, ``segmentation`` ``(n, h, w)`` int64 and ``depth``
        ``(n, 1, h, w)`` float32, of both parts.

    Raises:
        DataError: If files are missing, broken, of another shape or not numeric.
    """
    labels = label_folder(folder)
    train, test = (_part(folder / part, labels, limit) for part in ("train", "val"))
    return Split(train, test)


def _part(folder: Path, labels: str, limit: int | None) -> Batch:
    """All images of the train or of the test part."""
    paths = sorted((folder / "image").glob("*.npy"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise DataError(f"Folder {folder / 'image'} holds no npy files; get them from {SOURCE}.")
    rows = [_scene(folder, path.name, labels) for path in paths[:limit]]
    first = rows[0][0].shape
    for path, row in zip(paths, rows, strict=False):
        if row[0].shape != first:
            raise DataError(
                f"File {path} has an image of another size than {paths[0].name}: "
                f"{tuple(row[0].shape)}, not {tuple(first)} after thinning out."
            )
    images, classes, depths = (torch.stack(part) for part in zip(*rows, strict=True))
    return {"input": images, "segmentation": classes, "depth": depths}


def _scene(folder: Path, name: str, labels: str) -> tuple[Tensor, Tensor, Tensor]:
    path = folder / "image" / name
    image = _read(path)
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"File {path} should have shape (H, W, 3) and has shape {image.shape}.")
    height, width = image.shape[:2]
    label, depth = (_plane(folder / part / name, height, width) for part in (labels, "depth"))
    if label.min() < -1 or label.max() >= LABELS[labels]:
        raise DataError(
            f"File {folder / labels / name} should hold classes from -1 to {LABELS[labels] - 1} "
            f"and holds {label.min():g} to {label.max():g}."
        )
    step = -(-min(height, width) // SIDE)
    thin = (slice(None, None, step), slice(None, None, step))
    return (
        torch.as_tensor(image[thin].copy(), dtype=torch.float32).movedim(2, 0),
        torch.as_tensor(label[thin].copy(), dtype=torch.int64),
        torch.as_tensor(depth[thin].copy(), dtype=torch.float32).unsqueeze(0),
    )


def _plane(path: Path, height: int, width: int) -> Array:
    """One number for each pixel."""
    values = _read(path)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.shape != (height, width):
        raise DataError(
            f"File {path} should have shape {(height, width)} and has shape {values.shape}."
        )
    return values


def _read(path: Path) -> Array:
    """A numeric array without anything that is not a number."""
    try:
        values: Array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"File {path} is missing; get it from {SOURCE}.") from None
    except (ValueError, OSError, EOFError):
        raise DataError(f"File {path} is truncated, or no npy file of numbers.") from None
    if not np.issubdtype(values.dtype, np.number) or values.size == 0:
        raise DataError(f"File {path} should hold numbers and holds {values.dtype}.")
    if not np.isfinite(values).all():
        raise DataError(f"File {path} holds values that are not finite.")
    return values

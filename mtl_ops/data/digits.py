"""Real handwritten digits with four tasks; they come with scikit-learn, nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .task import Batch, Task

__all__ = ["DIGITS_TASKS", "Split", "digits"]

#: The four tasks on one 8x8 image, by name.
DIGITS_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("digit", 10, "classes"),
        Task("parity", 1, "binary"),
        Task("at-least-five", 1, "binary"),
        Task("reconstruction", 64, "regression"),
    )
}


class Split(NamedTuple):
    """The two parts of a data set, each of a form that :class:`mtl_ops.data.Loader` takes."""

    train: Batch
    test: Batch


def digits(seed: int = 0, test_fraction: float = 0.25) -> Split:
    """Load scikit-learn's 1,797 digits, split by ``seed`` with equal shares of every digit.

    Inputs are standardised with one mean and one deviation, both measured on the train part
    alone. One pair for the whole image, not one per pixel: the pixels at the rim are nearly
    always 0, and dividing by their tiny deviations would let a few of them drown the rest.

    Args:
        seed: Decides which images are in the test part.
        test_fraction: Share of the images in the test part.

    Returns:
        For each part ``input`` ``(n, 1, 8, 8)`` float32, ``digit`` ``(n,)`` int64, ``parity``
        and ``at-least-five`` ``(n,)`` float32 (1 means odd, or five and more), and
        ``reconstruction`` ``(n, 64)``, the input itself. So an error of 1 in reconstruction is that
        of always answering with the mean.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If ``test_fraction`` is not between 0 and 1.

    Example:
        >>> train, test = digits(seed=0)
        >>> train["input"].shape, len(test["digit"])
        (torch.Size([1347, 1, 8, 8]), 450)
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'The digits come with scikit-learn. Install it with `pip install "mtl-ops[demo]"`.'
        ) from error
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(
            "Parameter `test_fraction` should be between 0 and 1. "
            f"Found `test_fraction = {test_fraction}`."
        )
    bunch = load_digits()
    parts = train_test_split(
        bunch.images,
        bunch.target,
        test_size=test_fraction,
        stratify=bunch.target,
        random_state=seed,
    )
    train_images, test_images = (torch.as_tensor(part, dtype=torch.float32) for part in parts[:2])
    train_labels, test_labels = (torch.as_tensor(part, dtype=torch.int64) for part in parts[2:])
    return standardised(train_images, train_labels, test_images, test_labels)


def standardised(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Split:
    """Both parts by the mean and the deviation of the train part, with the targets of all tasks."""
    deviation, mean = torch.std_mean(train, correction=0)
    deviation = deviation.clamp(min=1e-6)
    return Split(
        _batch((train - mean) / deviation, train_labels),
        _batch((test - mean) / deviation, test_labels),
    )


def _batch(images: Tensor, labels: Tensor) -> Batch:
    """Images ``(n, H, W)`` and labels ``(n,)`` with the targets of all four tasks."""
    return {
        "input": images.unsqueeze(1),
        "digit": labels,
        "parity": (labels % 2).float(),
        "at-least-five": (labels >= 5).float(),
        "reconstruction": images.flatten(1),
    }

"""Multi-MNIST: two digits in one image, made of any set of digits."""

from __future__ import annotations

import torch
from torch import Tensor

from .digits import Split
from .task import Batch

__all__ = ["multi_digits", "multi_mnist"]


def multi_digits(source: Split, seed: int = 0) -> Split:
    """Lay each image over another of the same part, one to the upper left, one to the lower right.

    The canvas is a quarter larger than an image, and the brighter pixel is seen, as in Sabour,
    Frosst, Hinton, "Dynamic Routing Between Capsules", NeurIPS 2017; as a two-task problem: Sener,
    Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018.

    Args:
        source: Digits as of :func:`mtl_ops.data.digits` or :func:`mtl_ops.data.idx.mnist`.
        seed: Decides the pairs.

    Returns:
        For each part ``input`` ``(n, 1, s, s)`` float32 and the labels ``left`` and ``right``, ``(n,)``
        int64.

    Example:
        >>> from mtl_ops.data import digits
        >>> train, test = multi_digits(digits())
        >>> train["input"].shape, test["left"].shape
        (torch.Size([1347, 1, 10, 10]), torch.Size([450]))
    """
    generator = torch.Generator().manual_seed(seed)
    return Split(*(_overlay(part["input"], part["digit"], generator) for part in source))


def multi_mnist(source: Split, seed: int = 0) -> Split:
    """Two digits in one image by the recipe of those who made two tasks of it.

    On a canvas of 36×36 the first lies in the rows and columns 0 to 27, the second in 6 to 33; the
    brighter pixel is seen; then the canvas is made 28×28, each pixel that of the nearest. The second
    digit of each image is drawn with replacement. Sener, Koltun, "Multi-Task Learning as
    Multi-Objective Optimization", NeurIPS 2018, in whose repository the recipe lies.

    Args:
        source: Digits of 28×28, as of :func:`mtl_ops.data.mnist_5k.mnist_5k`.
        seed: Decides the pairs.

    Returns:
        As :func:`multi_digits`, with images of 28×28.

    Raises:
        ValueError: If the images have another size.
    """
    side = source.train["input"].shape[-1]
    if side != 28:
        raise ValueError(f"Parameter `source` should have images of 28×28. Found {side}×{side}.")
    generator = torch.Generator().manual_seed(seed)
    return Split(*(_published(part["input"], part["digit"], generator) for part in source))


def _published(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    partner = torch.randint(len(images), (len(images),), generator=generator)
    both = images.new_full((2, len(images), 1, 36, 36), float(images.min()))
    both[0, :, :, :28, :28] = images
    both[1, :, :, 6:34, 6:34] = images[partner]
    small = torch.nn.functional.interpolate(both.amax(dim=0), (28, 28), mode="nearest-exact")
    return {"input": small, "left": labels, "right": labels[partner]}


def _overlay(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    partner = torch.randperm(len(images), generator=generator)
    side = images.shape[-1]
    canvas = side + side // 4
    both = images.new_full((2, len(images), 1, canvas, canvas), float(images.min()))
    both[0, :, :, :side, :side] = images
    both[1, :, :, -side:, -side:] = images[partner]
    return {"input": both.amax(dim=0), "left": labels, "right": labels[partner]}

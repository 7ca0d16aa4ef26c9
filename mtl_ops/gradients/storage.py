"""Gradients of a task in another dtype than the parameters', behind one another in one block of memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["is_dtensor", "store"]


def store(grads: list[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Replaces the gradients by copies in a dtype; each is freed as it is copied.

    One block, because many small ones would be taken from what the last backward has left behind,
    and leave no room for the next backward's larger ones.
    """
    starts = [0]
    for gradient in grads:
        starts.append(starts[-1] + (0 if gradient is None else gradient.numel()))
    block: Tensor | None = None
    for place, start in enumerate(starts[:-1]):
        gradient = grads[place]
        if gradient is None or gradient.dtype == dtype:
            continue
        if block is None:
            block = torch.empty(starts[-1], dtype=dtype, device=gradient.device)
        # of channels_last gradients, too, the copy has the order of elements
        dense = _is_dense(gradient)
        strides = (
            gradient.stride() if dense else torch.empty(gradient.shape, device="meta").stride()
        )
        copy = block.as_strided(gradient.shape, strides, start)
        grads[place] = copy.copy_(gradient)
        del gradient
    return grads


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block without gap or overlap, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    dims = sorted(zip(tensor.stride(), tensor.shape, strict=True))
    sizes = [size for stride, size in dims if size != 1]
    strides = [stride for stride, size in dims if size != 1]
    return strides == [math.prod(sizes[:k]) for k in range(len(sizes))]


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is spread over processes; does not import what is not there yet."""
    return type(tensor.data).__name__ == "DTensor"

"""Operations that put a tensor into a larger one, or elsewhere: rules as in :mod:`.movement`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .parts import LARGEST, NOTHING, WHOLE, Part, intersect, of_indices, spread, tidy, without
from .saved import dim_of, readable, shape_of, signed

__all__ = [
    "index_add",
    "index_copy",
    "pad",
    "roll",
    "scatter",
    "scatter_add",
    "select_scatter",
    "slice_scatter",
]


def pad(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """Constants around a tensor, or what is left of it where the width is negative."""
    shape = list(shape_of(node, 0))
    dims = spread(used[0], len(shape))
    widths = [signed(width) for width in node._saved_pad]
    for k, (left, right) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        d = len(shape) - 1 - k
        bits = (1 << shape[d]) - 1 if dims[d] is None else dims[d] or 0
        shape[d] -= left + right
        dims[d] = (bits >> left if left > 0 else bits << -left) & ((1 << shape[d]) - 1)
    return [tidy(dims, shape)]


def roll(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """Elements that are moved along dimensions, those of the end to the beginning."""
    shape = shape_of(node, 0)
    dims = spread(used[0], len(shape))
    if not node._saved_dims:
        return [WHOLE]
    for d, shift in zip(node._saved_dims, node._saved_shifts, strict=True):
        d = signed(d) % len(shape)
        bits, size = dims[d], shape[d]
        if bits is not None:
            shift = signed(shift) % size
            dims[d] = (bits >> shift | bits << (size - shift)) & ((1 << size) - 1)
    return [tidy(dims, shape)]


def slice_scatter(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """A slice that is written over."""
    shape = shape_of(node, 0)
    d = dim_of(node, len(shape))
    start, end = (
        None if bound is None else signed(bound) for bound in (node._saved_start, node._saved_end)
    )
    picked = range(shape[d])[start : end : node._saved_step]
    return _written(used[0], shape, d, picked)


def select_scatter(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """An index of a dimension that is written over."""
    shape = shape_of(node, 0)
    d = dim_of(node, len(shape))
    base, values = _written(used[0], shape, d, [signed(node._saved_index) % shape[d]])
    if values:
        values = tidy([*values[:d], *values[d + 1 :]], (*shape[:d], *shape[d + 1 :]))
    return [base, values]


def index_copy(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """Some indices of a dimension that are written over."""
    shape = shape_of(node, 0)
    d = dim_of(node, len(shape))
    index: Tensor = node._saved_index
    if not readable(index):
        return [used[0], WHOLE]
    return _written(used[0], shape, d, [i % shape[d] for i in index.reshape(-1).tolist()])


def scatter(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
    """Elements that are written over, along one dimension by numbers and along the others in place.

    It is told what is left of the others only where the numbers are the same all along these.
    """
    shape, index = shape_of(node, 0), node._saved_index
    d = dim_of(node, len(shape))
    if not shape or not index.numel() or not readable(index):
        return [used[0], WHOLE]
    first = index.movedim(d, 0).flatten(1)[:, :1]
    picked = [i % shape[d] for i in first.reshape(-1).tolist()]
    if bool((index.movedim(d, 0).flatten(1) != first).any()):
        return [used[0], WHOLE]
    return _written(used[0], shape, d, picked, index.shape)


def _adding(
    rule: Callable[[Any, Mapping[int, Part]], list[Part | None]],
) -> Callable[[Any, Mapping[int, Part]], list[Part | None]]:
    """The rule of an operation that adds to what is there."""

    def adds(node: Any, used: Mapping[int, Part]) -> list[Part | None]:
        return [used[0], rule(node, used)[1]]

    return adds


scatter_add = _adding(scatter)
index_add = _adding(index_copy)


def _written(
    used: Part,
    shape: Sequence[int],
    dim: int,
    picked: Sequence[int],
    sizes: Sequence[int] | None = None,
) -> list[Part | None]:
    """What is used of a tensor, and of what is written to some indices of one of its dimensions.

    Args:
        used: What is used of the result.
        shape: That of the result.
        dim: The dimension.
        picked: For each index of what is written the one that it is written to; the same may come again.
        sizes: The shape of what is written; that of the result, but for the dimension, without it.
    """
    sizes = [*shape[:dim], len(picked), *shape[dim + 1 :]] if sizes is None else sizes
    contiguous = isinstance(picked, range) and picked.step == 1
    if not contiguous and shape[dim] > LARGEST:
        return [used, WHOLE]
    every = [(1 << size) - 1 for size in sizes]
    written: list[int | None] = [*every]
    written[dim] = every[dim] << picked[0] if contiguous and picked else of_indices(picked)
    part = tidy(written, shape)
    taken = NOTHING if part is NOTHING else intersect(used, part)
    if part is NOTHING or taken is NOTHING:
        return [used, NOTHING]
    dims = spread(taken, len(shape))
    bits = dims[dim]
    if bits is not None:
        dims[dim] = (
            bits >> picked[0]
            if contiguous
            else of_indices(k for k, i in enumerate(picked) if bits >> i & 1)
        )
    return [without(used, part, shape), tidy(dims, sizes)]

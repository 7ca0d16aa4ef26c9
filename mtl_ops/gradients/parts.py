"""Parts of a tensor: for each dimension the indices that are used, as the bits of a number.

A part is a product of sets of indices. Where the union of two parts, or what is left of one without another, is
no product, it is taken larger: a part always holds at least what is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = [
    "NOTHING",
    "WHOLE",
    "Part",
    "broadcast",
    "intersect",
    "of_indices",
    "reshape",
    "spread",
    "tidy",
    "union",
    "without",
]

#: For each dimension the bits of the indices that are used, ``None`` for all; without dimensions the whole tensor.
Part = tuple[int | None, ...]
WHOLE: Part = ()
NOTHING = None

#: Joined dimensions of more indices than that are used as a whole.
LARGEST = 2**16


def all_of(size: int) -> int:
    """The bits of all indices of a dimension."""
    return (1 << size) - 1


def of_indices(indices: Iterable[int]) -> int:
    """The bits of some indices, which are not negative."""
    bits = 0
    for index in indices:
        bits |= 1 << index
    return bits


def indices_of(bits: int) -> list[int]:
    """The indices whose bits are set."""
    return [index for index, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


def spread(part: Part, dims: int) -> list[int | None]:
    """As a list of one item for each dimension."""
    return list(part) if part else [None] * dims


def tidy(dims: Sequence[int | None], shape: Sequence[int]) -> Part | None:
    """:data:`WHOLE` if every index is used, :data:`NOTHING` if none is, or the part as it is."""
    if any(bits == 0 for bits in dims):
        return NOTHING
    part = tuple(
        None if bits == all_of(size) else bits for bits, size in zip(dims, shape, strict=True)
    )
    return WHOLE if all(bits is None for bits in part) else part


def union(one: Part, two: Part) -> Part:
    """A part that holds both."""
    if not one or not two:
        return WHOLE
    joined = tuple(None if a is None or b is None else a | b for a, b in zip(one, two, strict=True))
    return WHOLE if all(bits is None for bits in joined) else joined


def intersect(one: Part, two: Part) -> Part | None:
    """What is in both."""
    if not one or not two:
        return one or two
    joined = tuple(
        b if a is None else a if b is None else a & b for a, b in zip(one, two, strict=True)
    )
    return NOTHING if 0 in joined else joined


def without(one: Part, two: Part, shape: Sequence[int]) -> Part | None:
    """What is in the first and not in the second."""
    first, second = spread(one, len(shape)), spread(two, len(shape))
    sizes = [all_of(size) for size in shape]
    left = [
        (size if a is None else a) & ~(size if b is None else b)
        for a, b, size in zip(first, second, sizes, strict=True)
    ]
    parted = [d for d, bits in enumerate(left) if bits]
    if not parted:
        return NOTHING
    if len(parted) == 1:
        first[parted[0]] = left[parted[0]]
    return tidy(first, shape)


def broadcast(part: Part, shape: Sequence[int], operand: Sequence[int]) -> Part:
    """The part of an operand that a part of what it was broadcast to is computed from."""
    dims = spread(part, len(shape))
    if len(operand) > len(shape):
        return WHOLE
    kept = dims[len(dims) - len(operand) :]
    sizes = shape[len(shape) - len(operand) :]
    if any(one not in (1, size) for one, size in zip(operand, sizes, strict=True)):
        return WHOLE
    return tuple(
        bits if one == size else None for bits, one, size in zip(kept, operand, sizes, strict=True)
    )


def reshape(part: Part, shape: Sequence[int], into: Sequence[int]) -> Part:
    """The same elements in the same order in another shape."""
    if not part or math.prod(shape) != math.prod(into) or not math.prod(shape):
        return WHOLE
    found: list[int | None] = [None] * len(into)
    for before, after in _groups(shape, into):
        bits, sizes = [part[d] for d in before], [shape[d] for d in before]
        if all(one is None for one in bits):
            continue
        if len(before) == len(after) == 1:
            found[after[0]] = bits[0]
        elif math.prod(sizes) <= LARGEST:
            for d, one in zip(
                after, _parted(_joined(bits, sizes), [into[d] for d in after]), strict=True
            ):
                found[d] = one
    return tidy(found, into) or WHOLE


def _groups(shape: Sequence[int], into: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The dimensions, but for those of one index, that have the same number of elements on both sides."""
    groups = []
    left = [d for d, size in enumerate(shape) if size != 1]
    right = [d for d, size in enumerate(into) if size != 1]
    while left:
        before, after = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(shape[d] for d in before)) != (
            b := math.prod(into[d] for d in after)
        ):
            if a < b:
                before.append(left.pop(0))
            else:
                after.append(right.pop(0))
        groups.append((before, after))
    return groups


def _joined(bits: Sequence[int | None], sizes: Sequence[int]) -> int:
    """The bits of the elements of a product of dimensions, row-major."""
    found, count = 1, 1
    for one, size in zip(reversed(bits), reversed(sizes), strict=True):
        if one is None:
            found = _repeated(found, count, size)
        else:
            found = sum(found << (index * count) for index in indices_of(one))
        count *= size
    return found


def _repeated(bits: int, count: int, times: int) -> int:
    """``times`` copies of ``count`` bits."""
    found = shift = 0
    while times:
        if times & 1:
            found |= bits << shift
            shift += count
        bits |= bits << count
        count, times = 2 * count, times >> 1
    return found


def _parted(bits: int, sizes: Sequence[int]) -> list[int]:
    """The smallest product of dimensions that holds some elements, row-major."""
    count = math.prod(sizes)
    found = [0] * len(sizes)
    for element in indices_of(bits):
        rest = count
        for d, size in enumerate(sizes):
            rest //= size
            index, element = divmod(element, rest)
            found[d] |= 1 << index
    return found

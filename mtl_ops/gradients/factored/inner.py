"""G of one parameter from its factors, as exact as from its gradients.

Where gradients nearly cancel, products ``<U_i, (V Vᵀ) U_j>`` in float32 are not enough: their rounding is relative to
the factors, and what is left is small. With ``V Vᵀ = L Lᵀ`` they are ``<Lᵀ U_i, Lᵀ U_j>``: T matrices of R rows stand
for the gradients, rounded as those are, and their products are summed in float64. What rounding does to L is the same
for all tasks, and so relative to what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...reference.gradients import precision

__all__ = ["Part", "gram_of_parts", "joined", "wide"]

#: Elements of the moving factors that are multiplied at a time.
BLOCK = 2**19
#: Rows of a triangle that are multiplied at a time, at least.
HEIGHT = 32


@dataclass
class Part:
    """Some of the uses of a parameter: their rows one below the other.

    Attributes:
        fixed: ``(E, R, columns)``, or ``(R,)`` numbers of one-hot rows, as of :class:`Product`.
        moving: ``(E, R, columns)`` of each of T tasks; ``None`` for zeros.
        left: Whether the fixed factor is U.
    """

    fixed: Tensor
    moving: list[Tensor | None]
    left: bool


def joined(parts: Sequence[Part]) -> list[Part]:
    """Parts of the same kind as one: products of one use with another come with them."""
    kinds: dict[tuple[bool, int], list[Part]] = {}
    for part in parts:
        kinds.setdefault((part.left, part.fixed.dim()), []).append(part)
    return [group[0] if len(group) == 1 else _join(group) for group in kinds.values()]


def _join(group: Sequence[Part]) -> Part:
    fixed = torch.cat([part.fixed for part in group], dim=0 if group[0].fixed.dim() == 1 else 1)
    moving = [
        torch.cat([_filled(row, part) for row, part in zip(rows, group, strict=True)], dim=1)
        if any(row is not None for row in rows)
        else None
        for rows in zip(*(part.moving for part in group), strict=True)
    ]
    return Part(fixed, moving, group[0].left)


def _filled(row: Tensor | None, part: Part) -> Tensor:
    """Zeros for a task that has nothing to do with a use."""
    if row is not None:
        return row
    some = next(other for other in part.moving if other is not None)
    return torch.zeros_like(some)


def gram_of_parts(parts: Sequence[Part]) -> Tensor:
    """``(T, T)`` float64, inner products of ``Σ Uᵀ V`` over the parts, none of which has another's kind."""
    tasks = len(parts[0].moving)
    device = parts[0].fixed.device
    if len(parts) == 1 and parts[0].fixed.dim() == 3 and parts[0].fixed.dtype != torch.float64:
        found = _by_root(parts[0])
        if found is not None:
            return found
    gram = torch.zeros(tasks, tasks, dtype=precision(device), device=device)
    for place, part in enumerate(parts):
        gram += _same_side(_rows(part.fixed, part.fixed), part, part)
        for other in parts[:place]:
            if part.left == other.left:
                cross = _same_side(_rows(part.fixed, other.fixed), part, other)
            else:
                cross = _opposite(part, other) if part.left else _opposite(other, part).mT
            gram += cross + cross.mT
    return (gram + gram.mT) / 2


def _by_root(part: Part) -> Tensor | None:
    """``<Lᵀ U_i, Lᵀ U_j>``; ``None`` if the fixed factor has no root, which only the CPU tells without waiting."""
    fixed = wide(part.fixed)
    products = fixed @ fixed.mT
    info = torch.finfo(products.dtype)
    diagonal = products.diagonal(dim1=1, dim2=2)
    # What rounding may have made of eigenvalues that are 0; the square of it is below that of float32.
    least = 4.0 * info.eps * fixed.shape[1] * diagonal.sum(dim=1, keepdim=True) + info.tiny
    diagonal += least
    root, failed = torch.linalg.cholesky_ex(products)
    if failed.device.type == "cpu" and bool(failed.any()):
        return None
    upper = root.mT.to(torch.float32)
    tasks, columns = len(part.moving), _columns(part)
    gram = torch.zeros(tasks, tasks, dtype=products.dtype, device=products.device)
    step = max(1, BLOCK // (tasks * fixed.shape[0] * fixed.shape[1]))
    height = max(HEIGHT, -(-fixed.shape[1] // 4))
    for start in range(0, columns, step):
        block = _block(part, slice(start, start + step), torch.float32)
        for first in range(0, upper.shape[1], height):  # below the diagonal there is nothing
            corner = upper[:, first : first + height, first:]
            below = block[:, :, first:]
            one = len(corner) == 1
            mixed = torch.bmm(corner.expand(tasks, -1, -1), below[:, 0]) if one else corner @ below
            some = wide(mixed).flatten(1)
            gram += some @ some.mT
    return gram


def _rows(a: Tensor, b: Tensor) -> Tensor:
    """``(E, R, R')`` float64, inner products of rows, of which some may be one-hot."""
    if a.dim() == 1 and b.dim() == 1:
        same = (a.unsqueeze(1) == b.unsqueeze(0)) & (a >= 0).unsqueeze(1)
        return same.to(precision(a.device)).unsqueeze(0)
    if b.dim() == 1:
        return _rows(b, a).mT
    if a.dim() == 1:
        picked = wide(b[..., a.clamp(min=0)]) * (a >= 0)
        return picked.mT
    return wide(a) @ wide(b).mT


def _same_side(between: Tensor, part: Part, other: Part) -> Tensor:
    """``Σ_rs K_rs <a_ir, b_js>``, a block of columns at a time."""
    tasks = len(part.moving)
    columns = _columns(part)
    gram = between.new_zeros(tasks, tasks)
    step = max(1, BLOCK // (tasks * between.shape[0] * between.shape[1]))
    for start in range(0, columns, step):
        ours = _block(part, slice(start, start + step))
        theirs = ours if other is part else _block(other, slice(start, start + step))
        one = len(between) == 1
        mixed = between[0] @ theirs[:, 0] if one else between @ theirs
        gram += ours.flatten(1) @ mixed.flatten(1).mT
    return gram


def _opposite(part: Part, other: Part) -> Tensor:
    """``<Uᵀ V_i, U_jᵀ V>`` for parts of which one has U fixed, the other V."""
    v_of = [None if v is None else _rows(v, other.fixed) for v in part.moving]
    u_of = [None if u is None else _rows(part.fixed, u) for u in other.moving]
    return torch.stack(
        [torch.stack([_inner(left, right, part.fixed) for right in u_of]) for left in v_of]
    )


def _inner(a: Tensor | None, b: Tensor | None, like: Tensor) -> Tensor:
    if a is None or b is None:
        return torch.zeros((), dtype=precision(like.device), device=like.device)
    return torch.dot(a.flatten(), b.flatten())


def _columns(part: Part) -> int:
    return next(row for row in part.moving if row is not None).shape[-1]


def _block(part: Part, columns: slice, dtype: torch.dtype | None = None) -> Tensor:
    """``(T, E, R, columns)``, in float64 where nothing else is said."""
    some = next(row for row in part.moving if row is not None)
    size = some[..., columns].shape
    kind = dtype or precision(some.device)
    block = torch.empty(len(part.moving), *size, dtype=kind, device=some.device)
    for into, row in zip(block, part.moving, strict=True):
        if row is None:
            into.zero_()
        else:
            into.copy_(row[..., columns])
    return block


def wide(values: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return values.to(precision(values.device))

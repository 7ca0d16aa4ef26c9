"""Inner products of the gradients of single samples, from the rows of both factors."""

from __future__ import annotations

import torch
from torch import Tensor

from .inner import wide

__all__ = ["gram_of_rows", "gram_of_sums"]

#: Products of rows, or elements of gradients, that are there at a time.
BLOCK = 2**22


def gram_of_sums(terms: Tensor, owners: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``(B, B)`` float64 of gradients that are sums of rows, and these ``(B, columns)``."""
    sums = terms.new_zeros(count, terms.shape[1]).index_add_(0, owners, terms)
    return wide(sums) @ wide(sums).mT, sums


def gram_of_rows(u: Tensor, v: Tensor, owners: Tensor, count: int) -> Tensor:
    """``(B, B)`` float64, ``G_bc = Σ_{r of b, s of c} (u_r · u_s) (v_r · v_s)``.

    Where each sample has one row, in float64. Of several rows the products are in the factors' own dtype, and are
    summed either by pairs of rows or by blocks of the samples' gradients, whichever is less work.

    Args:
        u: ``(R, p)``; or ``(R,)`` int64, rows that are one-hot, of zeros where it is -1.
        v: ``(R, q)``.
        owners: ``(R,)`` int64, the sample of each row.
        count: B.
    """
    rows = len(owners)
    each = rows // count
    expected = torch.arange(rows, device=owners.device) // max(each, 1)
    if not torch.equal(owners, expected):
        order = owners.argsort(stable=True)
        u, v, owners = u[order], v[order], owners[order]
    regular = rows == each * count and torch.equal(owners, expected)
    if regular and each == 1 and u.dim() == 2:
        return (wide(u) @ wide(u).mT) * (wide(v) @ wide(v).mT)
    if regular and u.dim() == 2:
        p, q = u.shape[1], v.shape[1]
        if rows * rows * (p + q) / 2 > (rows + count * count) * p * q:
            return _by_gradients(u.reshape(count, each, p), v.reshape(count, each, q))
    return _by_pairs(u, v, owners, count)


def _by_gradients(u: Tensor, v: Tensor) -> Tensor:
    """The gradients of all samples, some of their columns at a time; factors ``(B, rows, columns)``."""
    count, _, p = u.shape
    gram = torch.zeros(count, count, dtype=wide(u[:0]).dtype, device=u.device)
    step = max(1, BLOCK // (count * p))
    for start in range(0, v.shape[2], step):
        part = torch.bmm(u.mT, v[..., start : start + step]).flatten(1)
        gram += part @ part.mT
    return gram


def _by_pairs(u: Tensor, v: Tensor, owners: Tensor, count: int) -> Tensor:
    """Products of pairs of rows, of some rows with all that follow at a time; rows in order of their samples."""
    rows = len(owners)
    gram = torch.zeros(count, count, dtype=wide(v[:0]).dtype, device=v.device)
    step = max(1, BLOCK // max(rows, 1))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        pairs = v[block] @ v[start:].mT
        if u.dim() == 1:
            pairs = pairs * ((u[block].unsqueeze(1) == u[start:]) & (u[start:] >= 0))
        else:
            pairs = pairs * (u[block] @ u[start:].mT)
        # What lies in the block is there with both of its rows in turn, what follows it once.
        pairs = wide(pairs)
        pairs[:, step:] *= 2.0
        some = torch.zeros(count, pairs.shape[1], dtype=pairs.dtype, device=pairs.device)
        some.index_add_(0, owners[block], pairs)
        gram.index_add_(1, owners[start:], some)
    return (gram + gram.mT) / 2

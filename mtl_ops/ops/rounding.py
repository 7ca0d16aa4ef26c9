"""How far the entries of a Gram matrix may be off."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..reference.eigen import EXACT

__all__ = ["EXACT", "rounding_of"]

#: Of what is narrower: products are added up in float32, at most 256 in a row. Random products leave
#: up to 2e-7, equal ones 4e-6, and more than 256 ulp (1.5e-5) cannot be.
_FLOAT32_SUMS = torch.finfo(torch.float32).eps


def rounding_of(dtypes: Iterable[torch.dtype]) -> float:
    """The share of ``√(G_ii G_jj)`` by which ``G_ij`` may be off, for gradients of these dtypes.

    It is that of the sums or of the gradients themselves, whichever is larger: an element that is
    off by a share ``ε`` turns up as ``ε²`` in the eigenvalue of a gradient that depends on others.
    """
    worst = EXACT
    for dtype in set(dtypes):
        if dtype != torch.float64:
            worst = max(worst, _FLOAT32_SUMS, torch.finfo(dtype).eps ** 2)
    return worst

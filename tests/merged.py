"""Comparing weights by what counts, the merged gradient."""

from __future__ import annotations

import torch
from matrices import Case, norms
from torch import Tensor


def size(case: Case, w: Tensor) -> float:
    """``Σ |w_i| n_i``: how long the merged gradient would be without cancellation."""
    return float(w.abs() @ norms(case.jacobian))


def difference(case: Case, w: Tensor, other: Tensor) -> float:
    """``|Jᵀ(w - v)|``."""
    return float((case.jacobian.T @ (w - other)).norm())


def length(case: Case, w: Tensor) -> float:
    """``|Jᵀw|``."""
    return float((case.jacobian.T @ w).norm())


def assert_same(
    case: Case,
    w: Tensor,
    other: Tensor,
    *,
    rtol: float,
    of_terms: float = 1e-13,
    of_rows: float = 0.0,
) -> None:
    """Equal to a share of the merged gradient, of what cancels in it, or of the gradients."""
    allowed = rtol * length(case, other) + of_terms * size(case, other)
    allowed += of_rows * float(norms(case.jacobian).sum())
    off = difference(case, w, other)
    assert off <= allowed, f"{case}: off by {off:.1e}, {allowed:.1e} allowed\n{w}\n{other}"
    assert torch.equal(w.isnan(), other.isnan())

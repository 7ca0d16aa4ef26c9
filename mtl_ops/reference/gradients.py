"""The two passes over the long gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["clamped", "gram", "merge_", "precision"]

#: Device types whose tensors cannot be float64.
NO_FLOAT64 = frozenset({"mps"})


def precision(device: torch.device) -> torch.dtype:
    """The widest dtype of a device."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def clamped(row: Tensor, clip_value: float | None) -> Tensor:
    """A gradient in the widest dtype, clamped; what is Inf or NaN becomes NaN, not the limit."""
    wide = row.detach().to(precision(row.device))
    if clip_value is None:
        return wide
    return torch.where(wide.isfinite(), wide.clamp(-clip_value, clip_value), torch.nan)


def gram(
    rows: Sequence[Tensor | None], tasks: int, segments: Sequence[int], clip_value: float | None
) -> Tensor:
    """``G[s,i,j] = Σ_p <g_ip, g_jp>`` over the parameters p of segment s."""
    count = len(rows) // tasks
    home = list(segments) or [0] * count
    first = next(row for row in rows if row is not None)
    dtype = precision(first.device)
    total = torch.zeros(max(home) + 1, tasks, tasks, dtype=dtype, device=first.device)
    for p in range(count):
        column = rows[p::count]
        reached = torch.tensor([t for t in range(tasks) if column[t] is not None])
        if len(reached) > 0:
            matrix = torch.stack(
                [clamped(row, clip_value).flatten() for row in column if row is not None]
            )
            place = reached.to(first.device)
            total[home[p]].index_put_(
                (place.unsqueeze(1), place.unsqueeze(0)), matrix @ matrix.T, accumulate=True
            )
    upper = total.triu()
    return upper + total.triu(1).transpose(1, 2)


def merge_(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    weights: Tensor,
    gram: Tensor | None,
    segments: Sequence[int],
    max_norm: float | None,
    clip_value: float | None,
    accumulate: bool,
) -> Tensor:
    """``out_p = c Σ_t w[s(p),t] g_tp (+ out_p)``, ``c = min(1, max_norm / √(Σ_s w_sᵀ G_s w_s))``."""
    tasks = weights.shape[1]
    count = len(out)
    home = list(segments) or [0] * count
    factor = torch.ones((), dtype=weights.dtype, device=weights.device)
    if max_norm is not None:
        if gram is None:
            raise ValueError("Parameter `gram` should be given with `max_norm`. Found None.")
        taken = torch.where(
            (weights != 0).unsqueeze(2) & (weights != 0).unsqueeze(1), gram, 0.0
        )  # 0 · Inf must not poison the norm
        square = torch.einsum("si,sij,sj->", weights, taken, weights)
        factor = torch.where(
            square <= max_norm * max_norm, factor, max_norm / square.clamp(min=0).sqrt()
        )
        factor = torch.where(square.isfinite(), factor, torch.nan)  # 0 · would hide what is broken
    for p, target in enumerate(out):
        merged = (
            target.detach().to(weights.dtype)
            if accumulate
            else torch.zeros_like(target, dtype=weights.dtype)
        )
        for t in range(tasks):
            row = rows[t * count + p]
            w = weights[home[p], t]
            if row is not None and bool(w != 0):
                merged = merged + factor * w * clamped(row, clip_value)
        target.copy_(merged)
    return factor

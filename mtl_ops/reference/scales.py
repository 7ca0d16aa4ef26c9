"""Task weights, per-task norm clipping and the tasks that are left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .gradients import gram

__all__ = ["gram_and_scales", "task_scales"]


def gram_and_scales(
    rows: Sequence[Tensor | None],
    tasks: int,
    segments: Sequence[int],
    clip_value: float | None,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Both in one call; see :func:`mtl_ops.ops.gram_and_scales`."""
    measured = gram(rows, tasks, segments, clip_value)
    return measured, task_scales(measured, task_weights, max_task_norm, skip_nonfinite, skipped)


def task_scales(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> Tensor:
    """``s = weight · min(1, max_task_norm / |g_t|)``, or 0; see :func:`mtl_ops.ops.task_scales`."""
    segments, tasks = gram.shape[:2]
    scale = torch.tensor(list(task_weights), dtype=gram.dtype, device=gram.device)
    scale = scale.reshape(segments, tasks)
    part = scale != 0
    diagonal = gram.diagonal(dim1=1, dim2=2)
    norms = torch.where(part, diagonal, 0.0).sum(dim=0).sqrt()
    broken = part.any(dim=0) & ~norms.isfinite()
    if max_task_norm is not None:
        scale = torch.where(norms > max_task_norm, scale * (max_task_norm / norms), scale)
    if skipped is not None:
        skipped.add_(broken)
    if skip_nonfinite:
        left = part.any(dim=0) & ~broken
        scale = torch.where(broken & left.any(), 0.0, scale)
    return scale

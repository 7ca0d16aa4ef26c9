"""Whether factors give the gradient that a backward gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..differentiate import joint_gradient
from ..layout import Layout, find_layout
from ..tasks import Tasks
from .factors import TaskFactors

__all__ = ["disagreeing", "limit_of"]

#: By how much the two may differ, in units of what is added up: rounding, and products in TF32.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 3e-3}
_LOW_PRECISION = 5e-2
#: A parameter counts as that part of all at least.
_LEAST = 1e-3
#: The fractional parts of its multiples lie as far apart as can be.
_GOLDEN = 0.6180339887498949


def disagreeing(factors: TaskFactors, tasks: Tasks, params: Sequence[Tensor]) -> list[int] | None:
    """Places of the parameters for which one backward of ``Σ_t r_t L_t`` gives another gradient than the factors do.

    Also those for which ``rᵀ G r`` is not its squared norm. The graph is kept.

    Returns:
        ``None`` if something is not finite, and nothing can be told.
    """
    total = len(tasks.losses)
    signs = [(-1.0) ** t * (0.5 + (t + 1) * _GOLDEN % 1.0) for t in range(total)]
    device = next(loss.device for loss in tasks.losses if loss is not None)
    r = torch.tensor(signs, dtype=torch.float64, device=device)
    layout = find_layout(factors.reached, total, None, [True] * len(params))
    places = range(len(params)) if layout.kept is None else layout.kept
    kept = [params[p] for p in places]
    expected = joint_gradient(tasks, r, kept, retain_graph=True)
    dtypes = factors.dtypes(kept, layout)
    merged = [torch.empty_like(p, dtype=dtype) for p, dtype in zip(kept, dtypes, strict=True)]
    factors.merge_(merged, r.unsqueeze(0), layout)
    grams = torch.stack([factors.gram(_alone(place, total))[0] for place in places])
    sizes = (r.abs() * grams.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()).sum(dim=1)
    # Of gradients that are nothing but rounding, of a bias before a normalisation, say, nothing is asked.
    sizes = sizes + _LEAST * torch.linalg.vector_norm(sizes)
    off = []
    for place, ours, theirs, gram, size in zip(places, merged, expected, grams, sizes, strict=True):
        if theirs is None:
            continue
        error = torch.linalg.vector_norm(ours.double() - theirs.double())
        gap = (r @ gram @ r - theirs.double().square().sum()).abs()
        if not bool(torch.isfinite(error + size + gap)):
            return None
        limit = _limit(params[place], factors)
        if bool(error > limit * size) or bool(gap > limit * size.square()):
            off.append(place)
    return off


def _alone(place: int, tasks: int) -> Layout:
    """A layout of one parameter."""
    return Layout((place,), (), 1, 1, (True,) * tasks, (0,))


def _limit(param: Tensor, factors: TaskFactors) -> float:
    kinds = {param.dtype}
    for factor in factors.factors.values():
        kinds |= {d.dtype for by_task in factor.deltas for d in by_task if d is not None}
    return limit_of(kinds)


def limit_of(kinds: set[torch.dtype]) -> float:
    """By how much gradients of these dtypes may differ, relatively."""
    return max(_TOLERANCE.get(kind, _LOW_PRECISION) for kind in kinds)

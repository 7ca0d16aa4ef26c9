"""The methods that look at single coordinates, and their random numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .gradients import clamped, precision

__all__ = [
    "merge_graddrop_",
    "merge_median_",
    "merge_sign_agreement_",
    "merge_trimmed_mean_",
    "philox",
    "philox_uniforms",
]

_WORD = 0xFFFFFFFF

#: Coordinates ``g … g+63`` take the four words of the counters ``g/4 … g/4+15``, 16 by 16.
GROUP = 64


def philox(counter: Tensor, seed: int, offset: int | Tensor) -> Tensor:
    """Philox4x32-10: ``(n,)`` int64 counters to ``(n, 4)`` words of 32 bits, as int64.

    The key is ``seed``, the upper half of the 128-bit counter ``offset``; both are taken as 64 bits.

    John K. Salmon, Mark A. Moraes, Ron O. Dror, David E. Shaw, "Parallel Random Numbers: As Easy as
    1, 2, 3", SC 2011.
    """
    a, b = counter & _WORD, (counter >> 32) & _WORD
    c, d = (torch.zeros_like(a) + part for part in (offset & _WORD, (offset >> 32) & _WORD))
    keys = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57  # wraps modulo 2^64, as it should
        a = ((right >> 32) & _WORD) ^ b ^ keys[0]
        c = ((left >> 32) & _WORD) ^ d ^ keys[1]
        b, d = right & _WORD, left & _WORD
        keys = [(keys[0] + 0x9E3779B9) & _WORD, (keys[1] + 0xBB67AE85) & _WORD]
    return torch.stack([a, b, c, d], dim=1)


def philox_uniforms(
    count: int, seed: int, offset: int | Tensor, device: torch.device | None = None, first: int = 0
) -> Tensor:
    """The uniform numbers of ``count`` coordinates from ``first`` on, ``(count,)``, strictly inside (0, 1).

    Each is an odd multiple of 2⁻²⁴, so it is exact in float32.
    """
    begin, end = first // GROUP, -(-(first + count) // GROUP)
    counters = torch.arange(begin * (GROUP // 4), end * (GROUP // 4), device=device)
    words = philox(counters, seed, offset).reshape(end - begin, GROUP // 4, 4).transpose(1, 2)
    skipped = first - begin * GROUP
    odd = (words.flatten()[skipped : skipped + count] >> 9) * 2 + 1
    return odd.to(precision(odd.device)) / 2**24


def merge_graddrop_(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
    leak: Sequence[float],
    seed: int,
    offset: int,
    uniforms: Tensor | None,
    first: Sequence[int],
    counter: Tensor | None = None,
) -> Tensor:
    """``Σ_t (l_t + (1 - l_t) M_t) g_t``; see :func:`mtl_ops.ops.merge_graddrop_`."""
    sizes = [target.numel() for target in out]
    starts = _first_numbers(sizes, first)
    if uniforms is not None:
        _check_uniforms(uniforms, sizes, starts, exact=not first)
    step = offset if counter is None else offset + counter.reshape(())
    shares = torch.tensor(list(leak), dtype=precision(out[0].device), device=out[0].device)

    def merge(values: Tensor, tasks: Tensor, p: int) -> Tensor:
        magnitude = values.abs().sum(dim=0)
        positive = 0.5 * (1 + values.sum(dim=0) / magnitude)  # NaN, and no mask, where all are 0
        if uniforms is None:
            u = philox_uniforms(sizes[p], seed, step, values.device, starts[p])
        else:
            u = uniforms[starts[p] : starts[p] + sizes[p]].to(values.dtype)
        mask = ((values > 0) & (positive > u)) | ((values < 0) & (positive < u))
        share = shares[tasks].unsqueeze(1)
        merged = ((share + (1 - share) * mask) * values).sum(dim=0)
        return torch.where(magnitude.isfinite(), merged, torch.nan)

    return _merge(out, rows, scale, segments, clip_value, accumulate, merge)


def _first_numbers(sizes: Sequence[int], first: Sequence[int]) -> list[int]:
    """The number of each tensor's first coordinate; without ``first`` they follow one another."""
    if not first:
        return list(itertools.accumulate(sizes, initial=0))[:-1]
    if len(first) != len(sizes):
        raise ValueError(
            f"Parameter `first` should be empty or hold {len(sizes)} numbers. Found {len(first)}."
        )
    if min(first) < 0:
        raise ValueError(f"Parameter `first` should not be negative. Found {min(first)}.")
    return list(first)


def _check_uniforms(
    uniforms: Tensor, sizes: Sequence[int], starts: Sequence[int], exact: bool
) -> None:
    needed = max((start + n for start, n in zip(starts, sizes, strict=True) if n > 0), default=0)
    if uniforms.dim() != 1 or len(uniforms) < needed or (exact and len(uniforms) > needed):
        raise ValueError(
            f"Parameter `uniforms` should have shape ({needed},){'' if exact else ' or longer'}. "
            f"Found shape {tuple(uniforms.shape)}."
        )


def merge_trimmed_mean_(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
    trim: int,
) -> Tensor:
    """The mean without the ``trim`` largest and smallest; see :func:`mtl_ops.ops.merge_trimmed_mean_`."""

    def merge(values: Tensor, tasks: Tensor, p: int) -> Tensor:
        count = len(tasks)
        drop = min(trim, (count - 1) // 2)
        mean = values.sort(dim=0).values[drop : count - drop].mean(dim=0)
        return torch.where(values.isnan().any(dim=0), torch.nan, mean)

    return _merge(out, rows, scale, segments, clip_value, accumulate, merge)


def merge_median_(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
) -> Tensor:
    """The middle value, or the mean of the middle two; see :func:`mtl_ops.ops.merge_median_`."""
    tasks = len(rows) // len(out)
    return merge_trimmed_mean_(out, rows, scale, segments, clip_value, accumulate, tasks)


def merge_sign_agreement_(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
    tau: float,
    mean: bool,
) -> Tensor:
    """The mean or sum where the signs agree; see :func:`mtl_ops.ops.merge_sign_agreement_`."""

    def merge(values: Tensor, tasks: Tensor, p: int) -> Tensor:
        agree = values.sign().sum(dim=0).abs() >= tau * len(tasks)
        merged = values.mean(dim=0) if mean else values.sum(dim=0)
        broken = values.isnan().any(dim=0)
        return torch.where(broken, torch.nan, torch.where(agree, merged, 0.0))

    return _merge(out, rows, scale, segments, clip_value, accumulate, merge)


def _merge(
    out: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    scale: Tensor | None,
    segments: Sequence[int],
    clip_value: float | None,
    accumulate: bool,
    merge: Callable[[Tensor, Tensor, int], Tensor],
) -> Tensor:
    """Writes the merge of every parameter, of the tasks that take part in it; its squared norm.

    ``merge`` takes the ``(k, n)`` scaled gradients, the k tasks and the parameter's place to ``(n,)``.
    """
    count = len(out)
    home = list(segments) or [0] * count
    merged = []
    for p, target in enumerate(out):
        values, tasks = [], []
        for t, row in enumerate(rows[p::count]):
            factor = 1.0 if scale is None else scale[home[p], t]
            if row is not None and bool(factor != 0):
                values.append((factor * clamped(row, clip_value)).flatten())
                tasks.append(t)
        if tasks:
            place = torch.tensor(tasks, device=target.device)
            merged.append(merge(torch.stack(values), place, p))
        else:
            merged.append(torch.zeros_like(target, dtype=precision(target.device)).flatten())

    for target, part in zip(out, merged, strict=True):
        result = part.view_as(target)
        target.copy_(target.to(result.dtype) + result if accumulate else result)
    return torch.stack([part.square().sum() for part in merged]).sum()

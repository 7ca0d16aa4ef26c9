"""Methods that look at single coordinates: ``T × P`` gradients to P merged ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .checks import check_coordinates
from .operator import Operator, Rows

__all__ = ["merge_graddrop_", "merge_median_", "merge_sign_agreement_", "merge_trimmed_mean_"]


def _squared_norm_like(out: Sequence[Tensor], *args: Any) -> Tensor:
    """The fake kernel of every operator below."""
    return out[0].new_empty((), dtype=torch.float64)


class _Coordinates(Operator):
    """An operator ``merge_*_`` that answers with the squared norm of what it merged."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _squared_norm_like, check_coordinates)

    def __call__(self, out: Sequence[Tensor], rows: Rows, *args: Any) -> Tensor:
        if not out:
            raise ValueError("Parameter `out` should hold at least one tensor. Found none.")
        call = self.on(out[0].device.type, len(rows) // len(out))
        square: Tensor = call(out, rows, *args)
        return square


_merge_graddrop = _Coordinates("merge_graddrop_")
_merge_trimmed_mean = _Coordinates("merge_trimmed_mean_")
_merge_median = _Coordinates("merge_median_")
_merge_sign_agreement = _Coordinates("merge_sign_agreement_")


def merge_graddrop_(
    out: Sequence[Tensor],
    rows: Rows,
    scale: Tensor | None = None,
    segments: Sequence[int] = (),
    clip_value: float | None = None,
    accumulate: bool = False,
    *,
    leak: Sequence[float],
    seed: int = 0,
    offset: int = 0,
    uniforms: Tensor | None = None,
    first: Sequence[int] = (),
    counter: Tensor | None = None,
) -> Tensor:
    """Keeps at each coordinate the gradients of one sign, drawn by its share of the magnitude.

    ``out = Σ_t (l_t + (1 - l_t) M_t) g_t``, with M_t = 1 where g_t > 0 and P > U, or g_t < 0 and
    P < U, and ``P = ½ (1 + Σg / Σ|g|)``. Gradients are multiplied by ``scale`` first, and a task
    takes part in a parameter that it reaches with a scale other than 0. A parameter without tasks
    gets 0. A NaN, or a Σ|g| that is not finite, gives NaN.

    Args:
        out: P tensors of the gradients' shapes and dtypes, changed in place.
        rows: ``T × P`` gradients.
        scale: ``(S, T)`` float64, as of :func:`task_scales`; None for 1.
        segments: The segment of each of the P parameters; empty for one segment.
        clip_value: Clamps every element to ``[-clip_value, clip_value]`` as it is read.
        accumulate: Adds to ``out`` instead of overwriting it.
        leak: T numbers l_t in [0, 1].
        seed: Key of the random numbers, 64 bits.
        offset: Draws other numbers from the same seed, 64 bits.
        uniforms: U, ``(N,)`` float32 or float64, for the elements of all P parameters by their
            numbers; with ``first`` there may be more. None draws them by their numbers, the same on
            every device.
        first: The number of the first element of each of the P parameters; those of its others
            follow, row-major. Empty if the parameters' numbers follow one another from 0. So a part
            of the parameters, or of one, is merged as it is together with the others.
        counter: 0-d int64 on the gradients' device, added to ``offset`` when the kernel runs: a captured
            graph whose replays find another number there draws other numbers. None for 0.

    Returns:
        The squared norm of the merged gradient, 0-d float64.
    """
    drawn = (seed, offset, uniforms, first, counter)
    return _merge_graddrop(out, rows, scale, segments, clip_value, accumulate, leak, *drawn)


def merge_trimmed_mean_(
    out: Sequence[Tensor],
    rows: Rows,
    scale: Tensor | None = None,
    segments: Sequence[int] = (),
    clip_value: float | None = None,
    accumulate: bool = False,
    *,
    trim: int,
) -> Tensor:
    """Takes the mean of each coordinate without its ``trim`` largest and ``trim`` smallest values.

    Where 2 ``trim`` tasks or fewer take part, it is the median. A NaN gives NaN; an infinity is
    trimmed like any other value. Arguments and answer as of :func:`merge_graddrop_`.
    """
    return _merge_trimmed_mean(out, rows, scale, segments, clip_value, accumulate, trim)


def merge_median_(
    out: Sequence[Tensor],
    rows: Rows,
    scale: Tensor | None = None,
    segments: Sequence[int] = (),
    clip_value: float | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Takes the median of each coordinate, of an even number of tasks the mean of the middle two.

    A NaN gives NaN. Arguments and answer as of :func:`merge_graddrop_`.
    """
    return _merge_median(out, rows, scale, segments, clip_value, accumulate)


def merge_sign_agreement_(
    out: Sequence[Tensor],
    rows: Rows,
    scale: Tensor | None = None,
    segments: Sequence[int] = (),
    clip_value: float | None = None,
    accumulate: bool = False,
    *,
    tau: float = 1.0,
    mean: bool = True,
) -> Tensor:
    """Takes the mean (or sum) of a coordinate where the signs agree, ``|Σ sign g_t| >= tau k``.

    k tasks take part; where their signs disagree the result is 0. A NaN gives NaN. Arguments and
    answer as of :func:`merge_graddrop_`.
    """
    return _merge_sign_agreement(out, rows, scale, segments, clip_value, accumulate, tau, mean)

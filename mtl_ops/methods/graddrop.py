"""GradDrop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.capture import capturing
from ._base import CoordinateMethod
from ._checks import closed_share, only
from ._memory import recall
from ._registry import register

__all__ = ["GradDrop"]


@register("graddrop")
class GradDrop(CoordinateMethod):
    """Gradient sign dropout: at each coordinate the gradients of one sign, drawn at random.

    ``P = ½ (1 + Σg / Σ|g|)`` is the share of the positive magnitude. With a uniform U, the gradients
    that are positive stay where ``P > U``, those that are negative where ``P < U``:

        ``d = Σ_t (l_t + (1 - l_t) M_t) g_t``,

    where M_t is 1 if the gradient stays, and ``l_t``, the leak, is what passes anyhow.

    Guarantees: no two gradients of opposite sign are added up where ``l = 0``; with one task, or
    where all signs agree, d is the sum. The expectation of d over U keeps the sign of ``Σg``.

    Args:
        leak: l, in [0, 1], for all tasks or one for each: a number, a sequence, or a tensor of shape
            ``()`` or ``(T,)``.

    The random numbers come from a counter, not from a stream: the seed is that of the generator (or
    ``torch.manual_seed``), and each call uses the next counters, so that a checkpoint resumes with
    the same numbers, and devices agree; a captured CUDA graph keeps the seed, and each replay uses the next counters.
    ``uniforms`` ``(N,)`` hands them in, for the N elements of
    the shared parameters.

    Memory: how often it was called, 0-d int64.

    Degenerate cases: a coordinate where all gradients are 0 stays 0. A NaN gives NaN.

    Raises:
        ValueError: If ``leak`` is out of range, or has not T numbers.
        TypeError: If ``leak`` is not a number, a sequence or a tensor of them.

    Zhao Chen, Jiquan Ngiam, Yanping Huang, Thang Luong, Henrik Kretzschmar, Yuning Chai, Dragomir
    Anguelov, "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
    NeurIPS 2020.

    Example:
        >>> import torch, mtl_ops
        >>> gradients = torch.tensor([[2.0, 1.0], [1.0, -1.0]])
        >>> mtl_ops.merge(gradients, "graddrop", uniforms=torch.tensor([0.9, 0.2]))
        tensor([3., 1.])
    """

    state_names = ("calls",)
    draws = True

    def __init__(self, *, leak: float | Sequence[float] | Tensor = 0.0) -> None:
        read: Any = leak.tolist() if isinstance(leak, Tensor) else leak
        single = not isinstance(read, Sequence)
        values: list[Any] = [read] if single else list(read)
        self.leak = tuple(closed_share("leak", value) for value in values)
        self._single = single
        if not values:
            raise ValueError("Parameter `leak` should hold a number for each task. Found none.")
        self.calls: Tensor | None = None
        self._seed = 0

    def merge_(
        self,
        out: Sequence[Tensor],
        rows: Sequence[Tensor | None],
        scale: Tensor,
        segments: Sequence[int],
        clip_value: float | None,
        accumulate: bool,
        *,
        first: Sequence[int] | None = None,
        **given: Any,
    ) -> Tensor:
        """See :meth:`CoordinateMethod.merge_`.

        Args:
            out: P tensors.
            rows: ``T × P`` gradients.
            scale: ``(S, T)``.
            segments: Of the P tensors.
            clip_value: Of elements.
            accumulate: Adds to ``out``.
            first: Of each of the P tensors, the number of its first element among the N of the shared
                parameters. ``None`` if they follow one another from 0.
            **given: ``uniforms``.
        """
        only(given, "uniforms")
        tasks = scale.shape[1]
        leak = self.leak * tasks if self._single else self.leak
        if len(leak) != tasks:
            raise ValueError(
                f"Parameter `leak` should be one number or {tasks} of them. Found {len(leak)}."
            )
        uniforms: Tensor | None = given.get("uniforms")
        # Each of a step's pieces is of the same call. On the device, so that replays of a graph draw anew.
        calls = recall(self, "calls", (), out[0].device, 0.0, torch.int64)
        if (
            not capturing()
        ):  # a graph keeps its seed, for which a generator cannot be asked meanwhile
            source = torch.default_generator if self.generator is None else self.generator
            self._seed = source.initial_seed()
        square = ops.merge_graddrop_(
            out,
            rows,
            scale,
            segments,
            clip_value,
            accumulate,
            leak=leak,
            seed=_signed(self._seed),
            uniforms=uniforms,
            first=first or (),
            counter=None if uniforms is not None else calls,
        )
        if uniforms is None:
            calls.add_(1)
        return square

    def __repr__(self) -> str:
        return f"GradDrop(leak={self.leak[0] if self._single else list(self.leak)})"


def _signed(seed: int) -> int:
    """The same 64 bits as a signed number, which is what operators take."""
    seed &= 2**64 - 1
    return seed - 2**64 if seed >= 2**63 else seed

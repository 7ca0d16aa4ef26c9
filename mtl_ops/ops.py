"""The operators: typed wrappers of ``torch.ops.mtl_ops.*``, with their fake kernels.

Each runs this build's kernel where there is one for the tensors' device and at most
:data:`MAX_TASKS` tasks, and its definition in :mod:`mtl_ops.reference` everywhere else.

``rows`` is the ``T × P`` matrix of per-task gradients as one flat list, row-major: ``rows[t*P + p]``
is the gradient of task t with respect to parameter p, or ``None`` where the task does not reach it.
``segments`` names for each parameter the segment it is measured and merged in; empty means one
segment for all. T tasks, P parameters, S segments.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _C, reference  # noqa: F401  (importing _C loads the operators)

__all__ = [
    "MAX_TASKS",
    "Rows",
    "gram",
    "merge_",
    "solve_mean",
    "solve_sum",
    "task_scales",
]

#: The largest number of tasks that the kernels take; the reference has no limit.
MAX_TASKS = 64

#: ``T × P`` gradients, row-major; ``None`` where a task does not reach a parameter.
Rows = Sequence[Tensor | None]

_warned: set[str] = set()


class _Operator:
    """One operator: its kernel where there is one, else its definition.

    Args:
        name: Its name in ``torch.ops.mtl_ops`` and in :mod:`mtl_ops.reference`.
    """

    def __init__(self, name: str) -> None:
        self.kernel = getattr(torch.ops.mtl_ops, name).default
        self.definition = getattr(reference, name)
        self.devices = frozenset(
            device
            for device in ("cpu", "cuda")
            if torch._C._dispatch_has_kernel_for_dispatch_key(f"mtl_ops::{name}", device.upper())
        )

    def on(self, device: str, tasks: int) -> Any:
        """What to call for tensors on this type of device."""
        if tasks > MAX_TASKS:
            return self.definition
        if device in self.devices:
            return self.kernel
        _warn_of_missing_kernels(device)
        return self.definition


def _warn_of_missing_kernels(device: str) -> None:
    if device in _warned or device == "meta" or torch.compiler.is_compiling():
        return
    _warned.add(device)
    remedy = " (for CUDA, build it with a CUDA build of torch and nvcc)" if device == "cuda" else ""
    warnings.warn(
        f"This build of mtl_ops has no kernels for device type {device!r}{remedy}: gradients there "
        "are merged by plain PyTorch, slower and with waits for the device.",
        stacklevel=4,
    )


def _device(rows: Rows) -> str:
    for row in rows:
        if row is not None:
            return row.device.type
    raise ValueError("Parameter `rows` should hold at least one tensor. Found only None.")


_gram = _Operator("gram")
_task_scales = _Operator("task_scales")
_merge = _Operator("merge_")


@torch.library.register_fake("mtl_ops::gram")
def _(rows: Rows, T: int, segments: Sequence[int], clip_value: float | None) -> Tensor:
    some = next(row for row in rows if row is not None)
    return some.new_empty((max(segments, default=0) + 1, T, T), dtype=torch.float64)


@torch.library.register_fake("mtl_ops::task_scales")
def _(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> Tensor:
    return gram.new_empty(gram.shape[:2])


@torch.library.register_fake("mtl_ops::merge_")
def _(
    out: Sequence[Tensor],
    grads: Rows,
    weights: Tensor,
    gram: Tensor | None,
    segments: Sequence[int],
    max_norm: float | None,
    clip_value: float | None,
    accumulate: bool,
) -> Tensor:
    return weights.new_empty(())


def gram(
    rows: Rows, tasks: int, segments: Sequence[int] = (), clip_value: float | None = None
) -> Tensor:
    """Inner products of the task gradients, ``G[s,i,j] = Σ_p <g_ip, g_jp>`` over p of segment s.

    Args:
        rows: ``T × P`` gradients (float32, float64, bfloat16 or float16; one dtype a parameter).
        tasks: T.
        segments: The segment of each of the P parameters; empty for one segment.
        clip_value: Clamps every element to ``[-clip_value, clip_value]`` as it is read.

    Returns:
        ``(S, T, T)`` float64.
    """
    result: Tensor = _gram.on(_device(rows), tasks)(rows, tasks, segments, clip_value)
    return result


def task_scales(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None = None,
    skip_nonfinite: bool = False,
    skipped: Tensor | None = None,
) -> Tensor:
    """Factor of each task before it is merged: its weight, times its clip factor, or 0.

    Args:
        gram: ``(S, T, T)`` float64.
        task_weights: ``S × T`` numbers, row-major; 0 where the task takes no part in the segment.
        max_task_norm: Clips the norm of each task's gradient, taken over all segments.
        skip_nonfinite: Gives the factor 0 to a task whose norm is not finite, unless no other task
            is left.
        skipped: ``(T,)`` int64, counts the non-finite gradients of each task; changed in place.

    Returns:
        ``(S, T)`` float64.
    """
    call = _task_scales.on(gram.device.type, gram.shape[-1])
    result: Tensor = call(gram, task_weights, max_task_norm, skip_nonfinite, skipped)
    return result


def merge_(
    out: Sequence[Tensor],
    rows: Rows,
    weights: Tensor,
    gram: Tensor | None = None,
    segments: Sequence[int] = (),
    max_norm: float | None = None,
    clip_value: float | None = None,
    accumulate: bool = False,
) -> Tensor:
    """Writes the merged gradient, ``out_p = c Σ_t w[s(p),t] g_tp`` (plus what is there).

    ``c = min(1, max_norm / √(Σ_s w_sᵀ G_s w_s))``, or 1 without ``max_norm``. A task of weight 0 is
    not read at all.

    Args:
        out: P tensors of the gradients' shapes and dtypes, changed in place.
        rows: ``T × P`` gradients.
        weights: ``(S, T)`` float64.
        gram: ``(S, T, T)`` float64; needed for ``max_norm``.
        segments: The segment of each of the P parameters; empty for one segment.
        max_norm: Clips the norm of the merged gradient over all P parameters.
        clip_value: Clamps every element to ``[-clip_value, clip_value]`` as it is read.
        accumulate: Adds to ``out`` instead of overwriting it.

    Returns:
        ``c``, a 0-d float64 tensor.
    """
    call = _merge.on(weights.device.type, weights.shape[-1])
    result: Tensor = call(out, rows, weights, gram, segments, max_norm, clip_value, accumulate)
    return result


# ---- solvers: (S, T, T) Gram matrices to (S, T) weights, w = s ∘ method(s G s) -----------------


def _weights_like(gram: Tensor, *args: Any) -> Tensor:
    """The fake kernel of every solver."""
    return gram.new_empty(gram.shape[:2])


class _Solver(_Operator):
    """An operator ``solve_*``: ``(S, T, T)`` to ``(S, T)``, both float64."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        torch.library.register_fake(f"mtl_ops::{name}", _weights_like)

    def __call__(self, gram: Tensor, scale: Tensor | None, *args: Any) -> Tensor:
        weights: Tensor = self.on(gram.device.type, gram.shape[-1])(gram, scale, *args)
        return weights


_solve_sum = _Solver("solve_sum")
_solve_mean = _Solver("solve_mean")


def solve_sum(gram: Tensor, scale: Tensor | None = None) -> Tensor:
    """``w = 1`` for every task that takes part."""
    return _solve_sum(gram, scale)


def solve_mean(gram: Tensor, scale: Tensor | None = None) -> Tensor:
    """``w = 1/k`` for the k tasks that take part."""
    return _solve_mean(gram, scale)

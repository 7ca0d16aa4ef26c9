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
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from . import _build, reference  # noqa: F401  (importing _build loads the operators, or says why not)

__all__ = [
    "MAX_TASKS",
    "Rows",
    "gram",
    "merge_",
    "merge_graddrop_",
    "merge_median_",
    "merge_sign_agreement_",
    "merge_trimmed_mean_",
    "solve_adaptive_sharing",
    "solve_aligned_mtl",
    "solve_cagrad",
    "solve_config",
    "solve_dualproj",
    "solve_fairgrad",
    "solve_gradvac",
    "solve_imtl_g",
    "solve_krum",
    "solve_mean",
    "solve_mgda",
    "solve_mgda_frank_wolfe",
    "solve_modo",
    "solve_nash_mtl",
    "solve_pcd",
    "solve_pcgrad",
    "solve_sdmgrad",
    "solve_sum",
    "solve_upgrad",
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
        fake: Computes the shapes of its results, for ``torch.compile``.
    """

    def __init__(self, name: str, fake: Callable[..., Any]) -> None:
        torch.library.register_fake(f"mtl_ops::{name}", fake)
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


def _fake_gram(rows: Rows, T: int, segments: Sequence[int], clip_value: float | None) -> Tensor:
    some = next(row for row in rows if row is not None)
    return some.new_empty((max(segments, default=0) + 1, T, T), dtype=torch.float64)


def _fake_task_scales(
    gram: Tensor,
    task_weights: Sequence[float],
    max_task_norm: float | None,
    skip_nonfinite: bool,
    skipped: Tensor | None,
) -> Tensor:
    return gram.new_empty(gram.shape[:2])


def _fake_merge(
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


_gram = _Operator("gram", _fake_gram)
_task_scales = _Operator("task_scales", _fake_task_scales)
_merge = _Operator("merge_", _fake_merge)


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


# ---- methods that look at single coordinates: (T, P) gradients to P merged ones ----------------


def _squared_norm_like(out: Sequence[Tensor], *args: Any) -> Tensor:
    """The fake kernel of every operator below."""
    return out[0].new_empty((), dtype=torch.float64)


class _Coordinates(_Operator):
    """An operator ``merge_*_`` that answers with the squared norm of what it merged."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _squared_norm_like)

    def __call__(self, out: Sequence[Tensor], rows: Rows, *args: Any) -> Tensor:
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

    Returns:
        The squared norm of the merged gradient, 0-d float64.
    """
    return _merge_graddrop(
        out, rows, scale, segments, clip_value, accumulate, leak, seed, offset, uniforms, first
    )


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


# ---- solvers: (S, T, T) Gram matrices to (S, T) weights, w = s ∘ method(s G s) -----------------


def _weights_like(gram: Tensor, *args: Any) -> Tensor:
    """The fake kernel of every solver."""
    return gram.new_empty(gram.shape[:2])


class _Solver(_Operator):
    """An operator ``solve_*``: ``(S, T, T)`` to ``(S, T)``, both float64."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _weights_like)

    def __call__(self, gram: Tensor, scale: Tensor | None, *args: Any) -> Tensor:
        weights: Tensor = self.on(gram.device.type, gram.shape[-1])(gram, scale, *args)
        return weights


_solve_sum = _Solver("solve_sum")
_solve_mean = _Solver("solve_mean")
_solve_pcgrad = _Solver("solve_pcgrad")
_solve_gradvac = _Solver("solve_gradvac")
_solve_adaptive_sharing = _Solver("solve_adaptive_sharing")
_solve_mgda = _Solver("solve_mgda")
_solve_mgda_frank_wolfe = _Solver("solve_mgda_frank_wolfe")
_solve_cagrad = _Solver("solve_cagrad")
_solve_upgrad = _Solver("solve_upgrad")
_solve_dualproj = _Solver("solve_dualproj")
_solve_pcd = _Solver("solve_pcd")
_solve_imtl_g = _Solver("solve_imtl_g")
_solve_config = _Solver("solve_config")
_solve_aligned_mtl = _Solver("solve_aligned_mtl")
_solve_nash_mtl = _Solver("solve_nash_mtl")
_solve_fairgrad = _Solver("solve_fairgrad")
_solve_krum = _Solver("solve_krum")
_solve_sdmgrad = _Solver("solve_sdmgrad")
_solve_modo = _Solver("solve_modo")


def solve_sum(gram: Tensor, scale: Tensor | None = None) -> Tensor:
    """``w = 1`` for every task that takes part."""
    return _solve_sum(gram, scale)


def solve_mean(gram: Tensor, scale: Tensor | None = None) -> Tensor:
    """``w = 1/k`` for the k tasks that take part."""
    return _solve_mean(gram, scale)


def solve_pcgrad(
    gram: Tensor, scale: Tensor | None = None, *, orders: Tensor, mean: bool = False
) -> Tensor:
    """Conflicting gradients projected on each other's normal planes, summed or averaged.

    Row i of ``orders[s]``, ``(S, T, K)`` int64, is the order in which the others correct task i;
    whoever is no other task that takes part is passed over.
    """
    return _solve_pcgrad(gram, scale, orders, mean)


def solve_gradvac(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    orders: Tensor,
    rho: Tensor,
    beta: float = 0.5,
    eps: float = 0.0,
    tol: float = 1e-9,
) -> Tensor:
    """Cosines raised to their running means ``rho`` ``(S, T, T)``, which is changed in place.

    ``orders`` as of :func:`solve_pcgrad`.
    """
    return _solve_gradvac(gram, scale, orders, rho, beta, eps, tol)


def solve_adaptive_sharing(
    gram: Tensor, scale: Tensor | None = None, *, cosines: Tensor, beta: float = 0.9
) -> Tensor:
    """``w_j = Σ_i r_ij / (Σ_m r_im)²``, r the average ``cosines`` in [0, 1] with ``r_ii = 1``.

    ``cosines`` ``(S, T, T)``, NaN for tasks that never met, move towards those of G in place.
    """
    return _solve_adaptive_sharing(gram, scale, cosines, beta)


def solve_mgda(gram: Tensor, scale: Tensor | None = None) -> Tensor:
    """The w on the simplex with ``wᵀGw`` least."""
    return _solve_mgda(gram, scale)


def solve_mgda_frank_wolfe(
    gram: Tensor, scale: Tensor | None = None, *, epsilon: float = 1e-3, max_iters: int = 100
) -> Tensor:
    """The same by Frank & Wolfe, until a step is shorter than ``epsilon``."""
    return _solve_mgda_frank_wolfe(gram, scale, epsilon, max_iters)


def solve_cagrad(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    c: float = 0.5,
    rescale: Literal[0, 1, 2] = 0,
    norm_eps: float = 0.0,
) -> Tensor:
    """The d with ``min_i <g_i, d>`` largest in ``|d - g0| <= c|g0|``, g0 the mean gradient."""
    return _solve_cagrad(gram, scale, c, rescale, norm_eps)


def solve_upgrad(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scaling: Literal["rows", "frobenius"] = "rows",
    reg_eps: float = 1e-6,
    norm_eps: float = 0.0,
) -> Tensor:
    """Sum of the projections of ``p_i g_i`` on the dual cone of all gradients.

    ``preference`` p ``(T,)`` float64, or 1/k.
    """
    return _solve_upgrad(gram, scale, preference, scaling == "rows", reg_eps, norm_eps)


def solve_dualproj(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scaling: Literal["rows", "frobenius"] = "rows",
    reg_eps: float = 1e-6,
    norm_eps: float = 0.0,
) -> Tensor:
    """Projection of ``Σ p_i g_i`` on the dual cone of the gradients; see :func:`solve_upgrad`."""
    return _solve_dualproj(gram, scale, preference, scaling == "rows", reg_eps, norm_eps)


def solve_pcd(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    state: Tensor,
    tau: float = 0.02,
    beta: float = 0.999,
    eps: float = 1e-8,
) -> Tensor:
    """The d nearest to the gradient of task 0 that makes progress for every other task.

    ``state`` ``(S, 2, T)``, changed in place: running means of ``|g_t|²``, not yet corrected, and the
    total weight in them.
    """
    return _solve_pcd(gram, scale, state, tau, beta, eps)


def solve_imtl_g(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    avoid_ascent: bool = False,
    rank_tol: float | None = None,
) -> Tensor:
    """Equal projections on all unit gradients, ``Σw = 1``; ConFIG where that goes uphill."""
    return _solve_imtl_g(gram, scale, avoid_ascent, rank_tol)


def solve_config(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    rank_tol: float | None = None,
) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n``, ``x = C⁺p``; ``preference`` p ``(T,)`` float64, or 1."""
    return _solve_config(gram, scale, preference, rank_tol)


def solve_aligned_mtl(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scale_mode: Literal["min", "median", "rmse"] = "min",
    rank_tol: float | None = None,
) -> Tensor:
    """``w = √σ V Λ^{-1/2} Vᵀ p``; ``preference`` p ``(T,)`` float64, or 1/k."""
    mode = ("min", "median", "rmse").index(scale_mode)
    return _solve_aligned_mtl(gram, scale, preference, mode, rank_tol)


def solve_nash_mtl(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    max_norm: float | None = 1.0,
    reg_eps: float = 1e-10,
) -> Tensor:
    """The w > 0 with ``(Gw)_i = 1/w_i``, shortened to ``√(wᵀGw) <= max_norm``."""
    return _solve_nash_mtl(gram, scale, max_norm, reg_eps)


def solve_fairgrad(
    gram: Tensor, scale: Tensor | None = None, *, alpha: float = 1.0, reg_eps: float = 1e-10
) -> Tensor:
    """The w > 0 with ``(Gw)_i = w_i^{-1/α}``."""
    return _solve_fairgrad(gram, scale, alpha, reg_eps)


def solve_krum(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    n_byzantine: int,
    n_selected: int = 1,
    squared: bool = True,
) -> Tensor:
    """``w = 1/m`` for the m tasks with the least distances to their nearest neighbours."""
    return _solve_krum(gram, scale, n_byzantine, n_selected, squared)


def solve_sdmgrad(
    cross_gram: Tensor,
    scale: Tensor | None = None,
    *,
    state: Tensor,
    preference: Tensor | None = None,
    lr: float = 10.0,
    momentum: float = 0.5,
    n_iter: int = 20,
    lam: float = 0.3,
) -> Tensor:
    """Projected momentum steps from ``state`` ``(S, T)``, changed in place; ``A = J₁J₂ᵀ``."""
    return _solve_sdmgrad(cross_gram, scale, state, preference, lr, momentum, n_iter, lam)


def solve_modo(
    cross_gram: Tensor,
    scale: Tensor | None = None,
    *,
    state: Tensor,
    gamma: float = 1e-3,
    rho: float = 0.1,
) -> Tensor:
    """One projected step from ``state`` ``(S, T)``, changed in place; ``A = J₁J₂ᵀ``."""
    return _solve_modo(cross_gram, scale, state, gamma, rho)

"""Solvers: ``(S, T, T)`` Gram matrices to ``(S, T)`` weights, ``w = s ∘ method(s G s)``.

``rounding`` is the share of ``√(G_ii G_jj)`` by which ``G_ij`` may be off; see :func:`rounding_of`. With k tasks,
eigenvalues of the cosine matrix of less than ``8 k · rounding`` may as well be 0, and that is what
``rank_tol=None`` and ``reg_eps=None`` stand for.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .operator import MAX_TASKS, Operator
from .rounding import EXACT

__all__ = [
    "Solver",
    "solve_adaptive_sharing",
    "solve_aligned_mtl",
    "solve_cagrad",
    "solve_config",
    "solve_conicgrad",
    "solve_dibs_mtl",
    "solve_dualproj",
    "solve_fairgrad",
    "solve_gradops",
    "solve_gradvac",
    "solve_imtl_g",
    "solve_krum",
    "solve_mean",
    "solve_mgda",
    "solve_mgda_frank_wolfe",
    "solve_modo",
    "solve_nash_mtl",
    "solve_online_pcgrad",
    "solve_pcd",
    "solve_pcgrad",
    "solve_sdmgrad",
    "solve_sum",
    "solve_upgrad",
]


def _weights_like(gram: Tensor, *args: Any) -> Tensor:
    """The fake kernel of every solver."""
    return gram.new_empty(gram.shape[:2])


class Solver(Operator):
    """An operator ``solve_*``: ``(S, T, T)`` to ``(S, T)``, both float64."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _weights_like)

    def on(self, device: str, tasks: int) -> Any:
        if device in self.devices and MAX_TASKS[device] < tasks <= MAX_TASKS["cpu"]:
            return self._on_host
        return super().on(device, tasks)

    def _on_host(self, *args: Any) -> Tensor:
        """The CPU's kernel, for matrices too large for those of their own device."""
        there = [arg.cpu() if isinstance(arg, Tensor) else arg for arg in args]
        weights: Tensor = self.kernel(*there)
        # those that have a default may be left out
        for argument, arg, copy in zip(self.kernel._schema.arguments, args, there, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                arg.copy_(copy)
        return weights.to(args[0].device)

    def __call__(self, gram: Tensor, scale: Tensor | None, *args: Any) -> Tensor:
        weights: Tensor = self.on(gram.device.type, gram.shape[-1])(gram, scale, *args)
        return weights


_solve_sum = Solver("solve_sum")
_solve_mean = Solver("solve_mean")
_solve_pcgrad = Solver("solve_pcgrad")
_solve_gradvac = Solver("solve_gradvac")
_solve_adaptive_sharing = Solver("solve_adaptive_sharing")
_solve_mgda = Solver("solve_mgda")
_solve_mgda_frank_wolfe = Solver("solve_mgda_frank_wolfe")
_solve_cagrad = Solver("solve_cagrad")
_solve_conicgrad = Solver("solve_conicgrad")
_solve_gradops = Solver("solve_gradops")
_solve_dibs_mtl = Solver("solve_dibs_mtl")
_solve_online_pcgrad = Solver("solve_online_pcgrad")
_solve_upgrad = Solver("solve_upgrad")
_solve_dualproj = Solver("solve_dualproj")
_solve_pcd = Solver("solve_pcd")
_solve_imtl_g = Solver("solve_imtl_g")
_solve_config = Solver("solve_config")
_solve_aligned_mtl = Solver("solve_aligned_mtl")
_solve_nash_mtl = Solver("solve_nash_mtl")
_solve_fairgrad = Solver("solve_fairgrad")
_solve_krum = Solver("solve_krum")
_solve_sdmgrad = Solver("solve_sdmgrad")
_solve_modo = Solver("solve_modo")


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


def solve_online_pcgrad(gram: Tensor, scale: Tensor | None = None, *, order: Tensor) -> Tensor:
    """Each gradient added to the sum of those before, freed from what of the sum contradicts it.

    ``order`` ``(S, T)`` int64 names the tasks in turn; whoever takes no part is passed over.
    """
    return _solve_online_pcgrad(gram, scale, order)


def solve_mgda(
    gram: Tensor, scale: Tensor | None = None, *, min_weights: Tensor | None = None
) -> Tensor:
    """The w with ``wᵀGw`` least, ``Σw = 1`` and ``w >= min_weights`` ``(T,)`` float64, or 0."""
    return _solve_mgda(gram, scale, min_weights)


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


def solve_conicgrad(gram: Tensor, scale: Tensor | None = None, *, c: float = 0.25) -> Tensor:
    """The d with ``min_i <g_i, d>`` largest in ``<g0, d> >= c|g0||d|``, ``|d| = |g0|``, g0 the mean gradient."""
    return _solve_conicgrad(gram, scale, c)


def solve_gradops(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    alpha: float = 0.0,
    project: Literal["conflict", "all"] = "conflict",
    rank_tol: float | None = None,
    rounding: float = EXACT,
) -> Tensor:
    """Sum of what of each gradient is orthogonal to all others, where it conflicts with one."""
    return _solve_gradops(gram, scale, alpha, project == "all", rank_tol, rounding)


def solve_dibs_mtl(
    gram: Tensor, scale: Tensor | None = None, *, steps: int = 1, step: float = 0.2
) -> Tensor:
    """``w = y/n``, y after some steps ``y <- y + step |x + ĝ_i|`` with ``x = -Σ y_i ĝ_i``."""
    return _solve_dibs_mtl(gram, scale, steps, step)


def solve_upgrad(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scaling: Literal["rows", "frobenius"] = "rows",
    reg_eps: float | None = None,
    norm_eps: float = 0.0,
    rounding: float = EXACT,
) -> Tensor:
    """Sum of the projections of ``p_i g_i`` on the dual cone of all gradients.

    ``preference`` p ``(T,)`` float64, or 1/k. A ridge ``reg_eps`` that is not given is taken out again.
    """
    return _solve_upgrad(gram, scale, preference, scaling == "rows", reg_eps, norm_eps, rounding)


def solve_dualproj(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scaling: Literal["rows", "frobenius"] = "rows",
    reg_eps: float | None = None,
    norm_eps: float = 0.0,
    rounding: float = EXACT,
) -> Tensor:
    """Projection of ``Σ p_i g_i`` on the dual cone of the gradients; see :func:`solve_upgrad`."""
    return _solve_dualproj(gram, scale, preference, scaling == "rows", reg_eps, norm_eps, rounding)


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
    rounding: float = EXACT,
) -> Tensor:
    """Equal projections on all unit gradients, ``Σw = 1``; ConFIG where that goes uphill."""
    return _solve_imtl_g(gram, scale, avoid_ascent, rank_tol, rounding)


def solve_config(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    rank_tol: float | None = None,
    rounding: float = EXACT,
) -> Tensor:
    """``w = (n·Cx / xᵀCx) x/n``, ``x = C⁺p``; ``preference`` p ``(T,)`` float64, or 1."""
    return _solve_config(gram, scale, preference, rank_tol, rounding)


def solve_aligned_mtl(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    preference: Tensor | None = None,
    scale_mode: Literal["min", "median", "rmse"] = "min",
    rank_tol: float | None = None,
    rounding: float = EXACT,
) -> Tensor:
    """``w = √σ V Λ^{-1/2} Vᵀ p``; ``preference`` p ``(T,)`` float64, or 1/k."""
    mode = ("min", "median", "rmse").index(scale_mode)
    return _solve_aligned_mtl(gram, scale, preference, mode, rank_tol, rounding)


def solve_nash_mtl(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    max_norm: float | None = 1.0,
    reg_eps: float | None = None,
    rounding: float = EXACT,
) -> Tensor:
    """The w > 0 with ``(Gw)_i = 1/w_i``, shortened to ``√(wᵀGw) <= max_norm``."""
    return _solve_nash_mtl(gram, scale, max_norm, reg_eps, rounding)


def solve_fairgrad(
    gram: Tensor,
    scale: Tensor | None = None,
    *,
    alpha: float = 1.0,
    reg_eps: float | None = None,
    rounding: float = EXACT,
) -> Tensor:
    """The w > 0 with ``(Gw)_i = w_i^{-1/α}``."""
    return _solve_fairgrad(gram, scale, alpha, reg_eps, rounding)


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

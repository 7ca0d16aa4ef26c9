"""Methods that need no gradient: losses ``(T,)`` float64 to weights ``(T,)``.

A task whose loss is not finite takes no part and has the weight 0. What a method remembers is written in place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "backward_difference",
    "weigh_dwa",
    "weigh_famo",
    "weigh_geometric",
    "weigh_ldc_mtl",
    "weigh_log_scales",
    "weigh_relobralo",
    "weigh_softadapt",
    "weigh_stch",
]


def weigh_famo(
    losses: Tensor,
    logits: Tensor,
    adam: Tensor,
    before: Tensor,
    least: Tensor | None,
    lr: float,
    weight_decay: float,
    improve: bool,
    after: bool,
) -> Tensor:
    """``w_i ∝ softmax(ξ)_i / D_i`` with ``D = L - least + 1e-8`` and ``Σw = 1``.

    If ``improve``, Adam first takes ξ along ``(diag z - z zᵀ) δ + γ ξ``, ``δ = log D(before) - log D(losses)``.
    ``before`` then becomes the losses, or NaN if they are those ``after`` a step.
    """
    least = torch.zeros_like(losses) if least is None else least
    if improve:
        part = losses.isfinite() & before.isfinite()
        delta = (before - least + 1e-8).log() - (losses - least + 1e-8).log()
        delta = torch.where(part, delta, 0.0)
        z = _shares(logits, part)
        slope = z * (delta - z.dot(delta)) + weight_decay * logits
        _take_adam_step(logits, slope, part & delta.isfinite().all(), adam, lr)
    before.copy_(torch.full_like(losses, torch.nan) if after else losses)
    part, over = losses.isfinite(), losses - least + 1e-8
    relative = _shares(logits, part) / torch.where(over > 0, over, torch.nan)
    kept = torch.where(part, relative, 0.0)
    return torch.where(part, kept / kept.sum(), 0.0)


def weigh_dwa(
    losses: Tensor,
    means: Tensor,
    sums: Tensor,
    counts: Tensor,
    calls: Tensor,
    temperature: float,
    window: int,
) -> Tensor:
    """``w = k softmax(r/τ)`` of k tasks, r the means ``(2, T)`` of the last epoch over those of the one before.

    ``sums``, ``counts`` ``(T,)`` and ``calls`` () int64 are those of this epoch, which ends before the call if
    ``window`` calls are in it; 0 for never.
    """
    part = losses.isfinite()
    over = (calls == window) & (window > 0)
    mean = torch.where(counts > 0, sums / counts, means[1])
    means.copy_(torch.where(over, torch.stack([means[1], mean]), means))
    for one in (sums, counts, calls):
        one.masked_fill_(over, 0)
    sums.add_(torch.where(part, losses, 0.0))
    counts.add_(part)
    calls.add_(1)
    older, newer = means.unbind()
    rates = torch.where(older.isnan() | newer.isnan(), 1.0, newer / older)
    return part.sum() * _shares(rates / temperature, part)


def weigh_geometric(losses: Tensor) -> Tensor:
    """``w_i = M / (k L_i)``, M the geometric mean of the k losses."""
    part = losses.isfinite()
    count = part.sum()
    logs = torch.where(losses > 0, losses.log(), torch.nan)
    mean = torch.where(part, logs, 0.0).sum() / count
    return torch.where(part, (mean - logs).exp() / count, 0.0)


def weigh_stch(
    losses: Tensor,
    preference: Tensor | None,
    reference: Tensor | None,
    mu: float,
    logarithmic: bool,
) -> Tensor:
    """``w = λ softmax(λ (L - z)/μ)``, or ``k λ softmax(λ log(L/z)/μ) / L`` of k tasks.

    λ is ``preference`` ``(T,)``, or 1/k, or 1; z is ``reference`` ``(T,)``, or 0, or 1.
    """
    part = losses.isfinite()
    count = part.sum()
    if logarithmic:
        weights = torch.ones_like(losses) if preference is None else preference
        ratio = losses if reference is None else losses / reference
        score = torch.where(ratio > 0, ratio.log(), torch.nan)
        factor = count * weights / losses
    else:
        weights = torch.ones_like(losses) / count if preference is None else preference
        score = losses if reference is None else losses - reference
        factor = weights
    return torch.where(part, factor * _shares(weights * score / mu, part), 0.0)


def weigh_softadapt(
    losses: Tensor, recent: Tensor, beta: float, variant: int, order: int
) -> Tensor:
    """``w = softmax(β s)``, s the slopes of the losses by the backward difference of the last ``order + 1``.

    ``recent`` ``(order + 1, T)``, oldest first, NaN for none. ``variant`` 1 divides s by ``Σ|s|``; 2 multiplies w
    by the mean losses, and divides it by its sum. ``w = 1/k`` until there are as many losses.
    """
    part = losses.isfinite()
    recent.copy_(torch.where(part, torch.cat([recent[1:], losses.unsqueeze(0)]), recent))
    slopes = torch.zeros_like(losses)
    for factor, then in zip(backward_difference(order), recent, strict=True):
        slopes = slopes + factor * then
    if variant == 1:
        total = torch.where(part, slopes.abs(), 0.0).sum()
        slopes = torch.where(total > 0, slopes / total, slopes)
    weights, even = _shares(beta * slopes, part), part.double() / part.sum()
    if variant == 2:
        means = recent.mean(dim=0)
        factors = torch.where(part, torch.where(means >= 0, means, torch.nan) * weights, 0.0)
        total = factors.sum()
        weights = torch.where(total == 0, even, factors / total)
    ready = (recent.isfinite().all(dim=0) | ~part).all()
    return torch.where(part, torch.where(ready, weights, even), 0.0)


def backward_difference(order: int) -> list[float]:
    """The factors of values 1 apart, oldest first, whose sum is the slope at the newest one.

    Exact for polynomials of this order: ``Σ_k c_k k^j`` over ``k = -order, ..., 0`` is 1 for ``j = 1``, and 0 for
    any other j up to the order.

    Example:
        >>> backward_difference(2)
        [0.5, -2.0, 1.5]
    """
    older = [(-1) ** j * math.comb(order, j) / j for j in range(order, 0, -1)]
    return [*older, math.fsum(1 / j for j in range(1, order + 1))]


def weigh_relobralo(
    losses: Tensor,
    balance: Tensor,
    initial: Tensor,
    previous: Tensor,
    drawn: Tensor,
    alpha: float,
    rho: float,
    temperature: float,
) -> Tensor:
    """``w = α (w or b(initial)) + (1 - α) b(previous)``, ``b(x) = k softmax(L / x / τ)`` of k tasks.

    The former if ``drawn`` () is below ρ. ``balance`` w, ``initial`` and ``previous`` losses ``(T,)`` are the memory.
    """
    part = losses.isfinite()
    usable = (~part | (losses >= 0)).all()
    known = part & initial.isfinite()
    first, last = (
        known.sum() * _shares(torch.where(earlier == 0, 1.0, losses / earlier) / temperature, known)
        for earlier in (initial, previous)
    )
    new = alpha * torch.where(drawn < rho, balance, first) + (1 - alpha) * last
    balance.copy_(torch.where(known & usable, new, balance))
    initial.copy_(torch.where(part & usable & ~known, losses, initial))
    previous.copy_(torch.where(part & usable, losses, previous))
    return torch.where(part, torch.where(usable, balance, torch.nan), 0.0)


def weigh_ldc_mtl(losses: Tensor, scales: Tensor, initial: Tensor | None, lam: float) -> Tensor:
    """``(2, T)``: derivatives of ``Σ v y / Σv + λ Σ |v_i y_i - v_j y_j|``, ``v = sigmoid(s)``, by L and by s.

    ``Σv`` is held fixed, j is the next task after i that takes part, and y is L, or ``log(L / initial)``, of which a
    NaN becomes the first loss above 0.
    """
    part = losses.isfinite()
    y, by_loss = losses, torch.ones_like(losses)
    if initial is not None:
        initial.copy_(torch.where(part & (losses > 0) & initial.isnan(), losses, initial))
        y = torch.where(losses > 0, losses, torch.nan).log() - initial.log()
        by_loss = losses.reciprocal()
    y = torch.where(part, y, 0.0)
    v = scales.sigmoid()
    slope = _shares(torch.nn.functional.logsigmoid(scales), part) + lam * v * _signs(v * y, part)
    weights = torch.where(part, slope * by_loss, 0.0)
    usable = (weights + y).isfinite().all()
    weights = torch.where(usable, weights, torch.nan)
    return torch.where(part, torch.stack([weights, (1 - v) * y * slope]), 0.0)


def _signs(values: Tensor, part: Tensor) -> Tensor:
    """Of each task that takes part ``sign(z_i - z_next) - sign(z_previous - z_i)``; 0 for the others, and for NaN."""
    places = torch.arange(len(values), device=values.device)
    latest = torch.where(part, places, -1).cummax(dim=0).values
    previous = torch.cat([latest.new_full((1,), -1), latest[:-1]])
    there = part & (previous >= 0)
    before = previous.clamp(min=0)
    signs = torch.where(there, torch.sign(values[before] - values), 0.0)
    return torch.zeros_like(values).scatter_add(0, before, signs) - signs


def weigh_log_scales(losses: Tensor, scales: Tensor, factor: float, rate: float) -> Tensor:
    """``(2, T)``: derivatives of ``Σ_i a e^(r s_i) L_i - a r s_i`` by L, which are the weights, and by s."""
    weights = factor * (rate * scales).exp()
    found = torch.stack([weights, rate * (weights * losses - factor)])
    return torch.where(losses.isfinite(), found, 0.0)


def _shares(scores: Tensor, part: Tensor) -> Tensor:
    """Their softmax over the tasks that take part; 0 for the others."""
    return torch.where(part, scores.masked_fill(~part, -torch.inf).softmax(dim=0), 0.0)


def _take_adam_step(x: Tensor, slope: Tensor, where: Tensor, state: Tensor, lr: float) -> None:
    """A step of ``torch.optim.Adam`` with β = (0.9, 0.999) and ε = 1e-8 on some of T numbers, in place.

    ``state`` ``(3, T)``: two moments, and the count of the steps of each.
    """
    slope = torch.where(where, slope, 0.0)
    mean, square, steps = state
    new = torch.stack([mean.lerp(slope, 0.1), 0.999 * square + 0.001 * slope.square(), steps + 1])
    mean, square, steps = new
    step = lr * mean / (1 - 0.9**steps) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)
    x.copy_(torch.where(where, x - step, x))
    state.copy_(torch.where(where, new, state))

"""EPO, PMGDA and FERERO: towards the point of the Pareto front that a preference asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from .linear_program import largest_on_simplex
from .mgda import least_norm
from .qp import EPSILON
from .segments import Problem, each_segment

__all__ = ["solve_epo", "solve_ferero", "solve_pmgda"]


def _losses(problem: Problem, losses: Tensor, least: float) -> Tensor | None:
    """``(k,)``, or ``None`` if one is not a number of at least ``least``."""
    values = losses.detach().to("cpu", torch.float64)[problem.tasks]
    return values if values.isfinite().all() and (values >= least).all() else None


def _unknown(problem: Problem) -> Tensor:
    return torch.full((problem.count,), torch.nan, dtype=torch.float64)


@each_segment
def solve_epo(
    problem: Problem, losses: Tensor, preference: Tensor | None, tol: float, relax: bool
) -> Tensor:
    """Balances the ``r_i L_i`` while they are further than ``tol`` from equal, and descends then."""
    values = _losses(problem, losses, 0.0)
    if values is None:
        return _unknown(problem)
    k, r = problem.count, problem.preference(preference, 1.0)
    largest = problem.gram.diagonal().max()
    if k == 1 or largest <= 0:
        return torch.full((k,), 1.0 / k, dtype=torch.float64)
    gram = problem.gram / largest
    weighted = r * values
    shares = weighted / weighted.sum() if weighted.any() else torch.full_like(r, 1.0 / k)
    logs = (k * shares.clamp(min=1e-300)).log()
    unevenness = torch.where(shares > 0, shares * logs, 0.0).sum()
    a = r * (logs - unevenness)
    change = gram @ a
    if unevenness > tol:
        worst = weighted == weighted.max()
        if not (change > 0).any():
            worst = torch.ones_like(worst)
        bound = worst | (change <= 0)
        rows, least, goal = gram[bound], torch.where(worst, 0.0, change)[bound], change
    else:
        rows, least, goal = gram, torch.zeros_like(r), gram.sum(dim=0)
        if not relax and float((logs - unevenness).abs().max()) > 1e-6:
            rows = torch.cat([rows, change.unsqueeze(0)])
            least = torch.cat([least, change.max().clamp(max=0).unsqueeze(0)])
    w = largest_on_simplex(goal, rows, least)
    return least_norm(gram) if w is None else w


@each_segment
def solve_pmgda(
    problem: Problem, losses: Tensor, preference: Tensor | None, h_tol: float, sigma: float
) -> Tensor:
    """``max t`` with ``<g_i, v> >= t`` and ``<∇h, v> >= sigma |∇h|``, v in the hull of the unit ``g_i`` and ``∇h``."""
    values = _losses(problem, losses, -torch.inf)
    if values is None:
        return _unknown(problem)
    gram, r = problem.gram, problem.preference(preference, 1.0)
    ray = r / r.norm()
    away = values - (values @ ray) * ray
    h = away.norm()
    lengths = gram.diagonal().clamp(min=0).sqrt()
    y = away / h if h > 0 else away
    steepness = (y @ gram @ y).clamp(min=0).sqrt()
    if h < h_tol or not steepness > 1e-12 * lengths.max():
        return least_norm(gram)
    mixed = torch.cat(
        [torch.diag(torch.where(lengths > 0, 1 / lengths, 0.0)), (y / steepness)[None]]
    )
    inner = gram @ mixed.T / lengths.max()  # (k, k + 1)
    # t = t₊ - t₋ in units of which no better one exists, so that all unknowns are on a simplex
    k, room = problem.count, 4.0
    a = torch.zeros(k + 1, k + 4, dtype=torch.float64)
    a[:k, : k + 1] = inner
    a[:k, k + 1], a[:k, k + 2] = -1.0, 1.0
    a[k, : k + 1] = mixed @ gram @ (y / steepness)
    b = torch.zeros(k + 1, dtype=torch.float64)
    b[k] = sigma * 1.0
    # Σμ = 1 and the slack of t₊ + t₋ <= room: two equations, the second as two bounds
    total = torch.zeros(2, k + 4, dtype=torch.float64)
    total[0, : k + 1], total[1, : k + 1] = 1.0, -1.0
    scale = 1.0 / (1.0 + room)
    a, b = torch.cat([a, total]), torch.cat([b, torch.tensor([1.0, -1.0], dtype=torch.float64)])
    goal = torch.zeros(k + 4, dtype=torch.float64)
    goal[k + 1], goal[k + 2] = 1.0, -1.0
    found = largest_on_simplex(goal, a, b * scale)
    assert found is not None
    mu = found[: k + 1] / found[: k + 1].sum()
    return mu @ mixed


@each_segment
def solve_ferero(
    problem: Problem, losses: Tensor, preference: Tensor | None, kappa: float, rounding: float
) -> Tensor:
    """``λ + q`` of the λ on the simplex and q ⟂ r with ``½|Jᵀ(λ + q)|² - κ q·L`` least.

    In ``ρ = <r, λ> / r_p`` the least over q is a parabola; of the λ with this ρ the best are mixtures of two tasks.
    """
    values = _losses(problem, losses, -torch.inf)
    if values is None:
        return _unknown(problem)
    k, r = problem.count, problem.preference(preference, 1.0)
    largest = problem.gram.diagonal().max()
    if k == 1 or largest <= 0:
        return torch.full((k,), 1.0 / k, dtype=torch.float64)
    gram, lengths = problem.gram, problem.gram.diagonal().sqrt()
    p = int(
        (lengths / r).argmin()
    )  # its gradient is taken off the others, none of which that drowns
    x = r / r[p]
    f = kappa * (values - x * values[p])
    units = 1 / torch.where(lengths > 0, lengths, lengths[lengths > 0].min())
    cosines = gram * units.outer(units)
    share = x * lengths[p] * units
    inner = cosines - share.outer(cosines[p]) - cosines[:, p].outer(share)
    inner = inner + share.outer(share) * cosines[p, p]
    cross = cosines[:, p] - share * cosines[p, p]
    pull, terms = units * f, units * kappa * (values.abs() + x * values[p].abs())
    others = torch.arange(k) != p
    lambdas, vectors = torch.linalg.eigh(inner[others][:, others])
    least = max(32 * k * EPSILON, 8 * k * rounding)
    kept = lambdas > least * max(1.0, float(lambdas[-1]))
    vectors = torch.zeros(k, len(lambdas), dtype=torch.float64).masked_scatter(
        others.unsqueeze(1), vectors
    )[:, kept]
    outside = (pull - vectors @ (vectors.T @ pull)).norm()
    noise = 64 * EPSILON * terms[others].norm()
    if outside > max(float(1e-8 * pull.norm()), float(noise)):
        return least_norm(gram)
    inverse = vectors / lambdas[kept] @ vectors.T
    bend = (lengths[p] ** 2 * (1 - cross @ inverse @ cross)).clamp(min=0)
    tilt = lengths[p] * (pull @ inverse @ cross)
    # from task i to task j by the share τ
    d_x, d_f = x.unsqueeze(0) - x.unsqueeze(1), f.unsqueeze(0) - f.unsqueeze(1)
    curve = bend * d_x**2
    slope = bend * x.unsqueeze(1) * d_x + tilt * d_x + d_f
    tau = torch.where(curve > 0, -slope / curve, torch.where(slope < 0, 1.0, 0.0)).clamp(0, 1)
    rho = x.unsqueeze(1) + tau * d_x
    cost = bend / 2 * rho**2 + tilt * rho + f.unsqueeze(1) + tau * d_f
    best = rho.flatten()[cost.argmin()]
    w: Tensor = units * (inverse @ (pull - best * lengths[p] * cross))
    w[p] = best - x @ torch.where(others, w, 0.0)
    return w

"""Some answers in 60 digits, to tell a wrong double from an inaccurate one."""

from __future__ import annotations

from itertools import combinations

from mpmath import mp
from torch import Tensor

mp.dps = 60

TINY = mp.mpf(10) ** -40


def exact(tensor: Tensor) -> mp.matrix:
    return mp.matrix(tensor.tolist())


def relative_error(gram: Tensor, found: Tensor, truth: mp.matrix) -> float:
    """``|Jᵀ(w - w*)| / |Jᵀw*|``."""
    g, off = exact(gram), exact(found) - truth
    return float(mp.sqrt(abs((off.T * g * off)[0] / (truth.T * g * truth)[0])))


def cosines(gram: Tensor) -> tuple[list[mp.mpf], mp.matrix]:
    """Norms n and cosines C."""
    g = exact(gram)
    n = [mp.sqrt(g[i, i]) for i in range(g.rows)]
    return n, mp.matrix([[g[i, j] / n[i] / n[j] for j in range(g.rows)] for i in range(g.rows)])


def imtl_g(gram: Tensor) -> mp.matrix:
    """For independent gradients."""
    n, c = cosines(gram)
    x = mp.lu_solve(c, mp.matrix([1] * c.rows))
    v = mp.matrix([x[i] / n[i] for i in range(c.rows)])
    return v / sum(v)


def config(gram: Tensor) -> mp.matrix:
    """For independent gradients, p = 1."""
    n, c = cosines(gram)
    x = mp.lu_solve(c, mp.matrix([1] * c.rows))
    length = sum(n) / sum(x)
    return mp.matrix([length * x[i] / n[i] for i in range(c.rows)])


def eigenvalues(gram: Tensor) -> list[mp.mpf]:
    """In descending order."""
    return sorted(mp.eigsy(exact(gram), eigvals_only=True), reverse=True)


def aligned(gram: Tensor) -> mp.matrix:
    """For independent gradients, σ the least eigenvalue, p = 1/T."""
    values, v = mp.eigsy(exact(gram))
    p = mp.matrix([mp.mpf(1) / v.rows] * v.rows)
    scaled = mp.diag([mp.sqrt(min(values) / value) for value in values])
    return v * (scaled * (v.T * p))


def of_dependent_gradients(jacobian: Tensor, rank: int, method: str) -> mp.matrix:
    """The merged gradient of ``"imtl_g"`` or ``"aligned"``, for any rank and 40 decades, in 140 digits."""
    with mp.workdps(140):
        j = exact(jacobian)
        g = j * j.T
        values, v = mp.eigsy(g)
        largest = sorted(range(g.rows), key=lambda i: -values[i])[:rank]
        least, w = values[largest[-1]], mp.zeros(g.rows, 1)
        p = [mp.sqrt(g[i, i]) if method == "imtl_g" else mp.mpf(1) / g.rows for i in range(g.rows)]
        for k in largest:
            share = sum(v[i, k] * p[i] for i in range(g.rows))
            share /= values[k] if method == "imtl_g" else mp.sqrt(values[k] / least)
            w += share * v[:, k]
        return j.T * w / (sum(w) if method == "imtl_g" else 1)


def fairness_residual(gram: Tensor, w: Tensor, alpha: float, ridge: float = 0.0) -> float:
    """``max |1 - (Gw)_i w_i^{1/α}|`` over the gradients that are not zero."""
    kept = gram.diagonal() > 0
    if not kept.any():
        return 0.0
    g, x = exact(gram[kept][:, kept]), exact(w[kept])
    for i in range(g.rows):
        g[i, i] *= 1 + mp.mpf(ridge)
    v = g * x
    return float(max(abs(1 - v[i] * x[i] ** (1 / mp.mpf(alpha))) for i in range(g.rows)))


def ferero(gram: Tensor, losses: Tensor, preference: Tensor) -> mp.matrix:
    """For independent gradients, κ = 1: the least along each edge, what is ⟂ r eliminated."""
    g, values, r = (exact(given) for given in (gram, losses, preference))
    k, last = g.rows, g.rows - 1
    r = r / mp.norm(r)
    f = values - (values.T * r)[0] * r
    across = mp.matrix(k, last)  # columns ⟂ r
    for i in range(last):
        across[i, i], across[last, i] = 1, -r[i] / r[last]
    inside = across.T * g * across
    of_f, of_r = (mp.lu_solve(inside, across.T * x) for x in (f, g * r))
    bend = (r.T * g * r)[0] - (r.T * g * across * of_r)[0]
    tilt = (f.T * across * of_r)[0]
    best = None
    for i in range(k):
        for j in range(k):
            d_rho, d_f = r[j] - r[i], f[j] - f[i]
            slope = (bend * r[i] + tilt) * d_rho + d_f
            tau = min(max(-slope / (bend * d_rho**2), mp.mpf(0)), mp.mpf(1)) if d_rho else 0
            rho = r[i] + tau * d_rho
            cost = bend / 2 * rho**2 + tilt * rho + f[i] + tau * d_f
            if best is None or cost < best[0]:
                best = (cost, rho)
    assert best is not None
    return best[1] * r + across * (of_f - best[1] * of_r)


def pmgda(gram: Tensor, losses: Tensor, preference: Tensor, sigma: float) -> mp.matrix:
    """Off the ray, the best of all corners of its program."""
    g, values, r = (exact(given) for given in (gram, losses, preference))
    k = g.rows
    y = values - (values.T * r)[0] / (r.T * r)[0] * r
    y = y / mp.norm(y)
    slopes = g * y
    steepness = mp.sqrt((y.T * slopes)[0])
    n = [mp.sqrt(g[i, i]) for i in range(k)]
    # rows a·(μ_1, ..., μ_k, μ_h, t) >= b, each to a largest entry of about 1
    bounds = [
        ([g[i, j] / n[j] / n[i] for j in range(k)] + [slopes[i] / steepness / n[i], -1 / n[i]], 0)
        for i in range(k)
    ]
    bounds.append(([slopes[j] / n[j] / steepness for j in range(k)] + [1, 0], mp.mpf(sigma)))
    bounds += [([int(i == j) for j in range(k + 2)], 0) for i in range(k + 1)]
    best = None
    for active in combinations(bounds, k + 1):
        square = mp.matrix([row for row, _ in active] + [[1] * (k + 1) + [0]])
        if abs(mp.det(square)) < TINY:
            continue
        x = mp.lu_solve(square, mp.matrix([b for _, b in active] + [1]))
        allowed = all(mp.fdot(row, x) - b >= -TINY for row, b in bounds)
        if allowed and (best is None or x[k + 1] > best[k + 1]):
            best = x
    assert best is not None
    return mp.matrix([best[i] / n[i] + best[k] / steepness * y[i] for i in range(k)])

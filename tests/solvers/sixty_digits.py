"""Some answers in 60 digits, to tell a wrong double from an inaccurate one."""

from __future__ import annotations

from mpmath import mp
from torch import Tensor

mp.dps = 60


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

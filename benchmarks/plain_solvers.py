"""The T × T part of each method as one would write it down: NumPy, SciPy, no thought of speed.

Each function takes the Gram matrix ``(T, T)`` float64 and returns the weights ``(T,)``. With the
loops over long gradients in :mod:`benchmarks.rivals` they make the naive versions, and being
written without a look at the kernels they say in the tests what those should give. Where SciPy is not
installed, what needs it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

__all__ = ["SOLVERS", "Array"]

Array = NDArray[np.float64]


def equal_sum(gram: Array) -> Array:
    return np.ones(len(gram))


def mean(gram: Array) -> Array:
    return np.full(len(gram), 1.0 / len(gram))


def random(gram: Array) -> Array:
    draws = np.exp(np.random.default_rng().normal(size=len(gram)))
    return draws / draws.sum()


def frank_wolfe(gram: Array) -> Array:
    """The point of least norm in the hull, as in Sener and Koltun (2018), algorithm 2."""
    weights = np.full(len(gram), 1.0 / len(gram))
    for _ in range(250):
        products = gram @ weights
        best = int(products.argmin())
        norm = weights @ products
        length = norm - 2 * products[best] + gram[best, best]
        step = 1.0 if length <= 0 else min(1.0, max(0.0, (norm - products[best]) / length))
        if step < 1e-5:
            break
        weights = (1 - step) * weights
        weights[best] += step
    return weights


def cagrad(gram: Array, c: float = 0.5) -> Array:
    """The dual problem on the simplex by sequential quadratic programming."""
    from scipy.optimize import minimize

    tasks = len(gram)
    size = np.sqrt(np.trace(gram))
    scaled = gram / size**2
    uniform = np.full(tasks, 1.0 / tasks)
    radius = c * np.sqrt(uniform @ scaled @ uniform)
    found = minimize(
        lambda w: w @ scaled @ uniform + radius * np.sqrt(max(w @ scaled @ w, 1e-30)),
        uniform,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * tasks,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0},
        options={"ftol": 1e-14, "maxiter": 200},
    )
    return uniform + radius / np.sqrt(found.x @ scaled @ found.x) * found.x


def dual_cone(gram: Array, start: Array) -> Array:
    """``argmin vᵀGv`` over ``v ≥ start``, rows scaled to norm 1, as non-negative least squares."""
    from scipy.optimize import nnls

    norms = np.sqrt(gram.diagonal())
    matrix = gram / np.outer(norms, norms) + 1e-6 * np.eye(len(gram))
    root = np.linalg.cholesky(matrix).T
    scaled = start * norms
    found, _ = nnls(root, -root @ scaled)
    return (scaled + found) / norms


def upgrad(gram: Array) -> Array:
    return sum(dual_cone(gram, row) for row in np.eye(len(gram)) / len(gram))


def dualproj(gram: Array) -> Array:
    return dual_cone(gram, mean(gram))


def fair(gram: Array) -> Array:
    """``(Gw)_i = 1/w_i`` as a least-squares problem in the weights of unit rows."""
    from scipy.optimize import least_squares

    norms = np.sqrt(gram.diagonal())
    cosines = gram / np.outer(norms, norms)
    start = np.full(len(gram), np.sqrt(len(gram) / max(cosines.sum(), 1e-9)))
    found = least_squares(
        lambda x: cosines @ x - 1.0 / x, start, bounds=(1e-12, np.inf), xtol=1e-15, ftol=1e-15
    )
    return found.x / norms


def nash(gram: Array, max_norm: float = 1.0) -> Array:
    weights = fair(gram)
    return weights * min(1.0, max_norm / np.sqrt(weights @ gram @ weights))


def imtl_g(gram: Array) -> Array:
    weights = np.linalg.pinv(gram) @ np.sqrt(gram.diagonal())
    return weights / weights.sum()


def config(gram: Array) -> Array:
    norms = np.sqrt(gram.diagonal())
    cosines = gram / np.outer(norms, norms)
    direction = np.linalg.pinv(cosines) @ np.ones(len(gram))
    length = norms @ cosines @ direction / (direction @ cosines @ direction)
    return length * direction / norms


def aligned_mtl(gram: Array) -> Array:
    values, vectors = np.linalg.eigh(gram)
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    return np.sqrt(values.min()) * inverse_root @ mean(gram)


def krum(gram: Array, n_byzantine: int = 1) -> Array:
    squares = gram.diagonal()
    distances = np.add.outer(squares, squares) - 2 * gram
    np.fill_diagonal(distances, np.inf)
    closest = np.sort(distances, axis=1)[:, : len(gram) - n_byzantine - 2]
    return np.eye(len(gram))[closest.sum(axis=1).argmin()]


_WITH_SCIPY: dict[str, Callable[[Array], Array]] = {
    "cagrad": cagrad,
    "dualproj": dualproj,
    "fairgrad": fair,
    "nash_mtl": nash,
    "upgrad": upgrad,
}
SOLVERS: dict[str, Callable[[Array], Array]] = {
    "aligned_mtl": aligned_mtl,
    "config": config,
    "imtl_g": imtl_g,
    "krum": krum,
    "mean": mean,
    "mgda": frank_wolfe,
    "random": random,
    "sum": equal_sum,
    **(_WITH_SCIPY if find_spec("scipy") else {}),
}

"""Jacobians that are hard for one solver or another.

A family is a function of a generator and a number of tasks T that makes a ``(T, N)`` float64
matrix, one gradient a row. :data:`FAMILIES` holds all of them by name; :func:`cases` runs through
families, sizes and seeds; :func:`gram` makes the Gram matrix a solver gets.

Example:
    >>> for case in cases(sizes=(2, 8), seeds=2):
    ...     weights = ops.solve_mgda(case.gram)          # (1, T, T) to (1, T)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

Family = Callable[[Generator, int], Tensor]

FAMILIES: dict[str, Family] = {}

#: Families in which 0 is (nearly) in the convex hull of the rows: the *direction* of the merged
#: gradient of a method that looks for a common descent is then rounding, or close to it.
STATIONARY = frozenset(
    {
        "all_zero",
        "duplicates_opposite",
        "graded_stationary",
        "opposite",
        "parallel",
        "rank_deficient",
        "simplex",
        "stationary",
        "stationary_face",
        "ternary",
        "zero_row",
    }
)

#: Families whose Gram matrix is singular, or so nearly that a factorisation cannot tell.
SINGULAR = STATIONARY | {"duplicates", "near_duplicates_fine", "scaled_duplicates"}


def gram(jacobian: Tensor) -> Tensor:
    """``J Jᵀ``, ``(1, T, T)``, symmetric to the last bit."""
    product = jacobian @ jacobian.T
    return (product.triu() + product.triu(1).T).unsqueeze(0).contiguous()


def norms(jacobian: Tensor) -> Tensor:
    """``(T,)`` norms of the rows."""
    return jacobian.norm(dim=1)


@dataclass(frozen=True)
class Case:
    """One matrix and where it comes from."""

    family: str
    tasks: int
    seed: int
    jacobian: Tensor

    @cached_property
    def gram(self) -> Tensor:
        return gram(self.jacobian)

    def __str__(self) -> str:
        return f"{self.family}, T = {self.tasks}, seed {self.seed}"


def make(family: str, tasks: int, seed: int) -> Case:
    """The same matrix for the same arguments, on every run."""
    generator = torch.Generator().manual_seed(7919 * seed + 31 * tasks + sum(map(ord, family)))
    return Case(family, tasks, seed, FAMILIES[family](generator, tasks))


def cases(
    families: Iterable[str] | None = None, sizes: Iterable[int] = (1, 2, 3, 5, 8), seeds: int = 3
) -> Iterator[Case]:
    """All families (or the given), all sizes, ``seeds`` matrices each."""
    for family in families if families is not None else FAMILIES:
        for tasks in sizes:
            for seed in range(seeds):
                yield make(family, tasks, seed)


def _family(function: Family) -> Family:
    FAMILIES[function.__name__] = function
    return function


def _normal(g: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _uniform(g: Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=g, dtype=torch.float64)


def _scales(g: Generator, tasks: int, decades: float) -> Tensor:
    return 10.0 ** (decades * (2.0 * _uniform(g, tasks, 1) - 1.0))


def _around_mean(g: Generator, tasks: int, kept: float) -> Tensor:
    """Normal rows with all but ``kept`` of their (random convex) mean removed."""
    rows = _normal(g, tasks, 2 * tasks + 8)
    weights = _uniform(g, tasks) + 0.1
    return rows - (1.0 - kept) * (weights / weights.sum()) @ rows


# ---- well behaved ---------------------------------------------------------------------------------


@_family
def random(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, 2 * tasks + 8)


@_family
def square(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, tasks)


@_family
def nearly_orthogonal(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, 50 * tasks)


@_family
def orthogonal(g: Generator, tasks: int) -> Tensor:
    return torch.diag(_uniform(g, tasks) + 0.5)


@_family
def shared_direction(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, tasks + 8) + 3.0 * _normal(g, 1, tasks + 8)


@_family
def nonnegative(g: Generator, tasks: int) -> Tensor:
    return _uniform(g, tasks, tasks + 4)


@_family
def sparse(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, 4 * tasks + 4)
    kept = _uniform(g, *rows.shape) < 0.15
    kept[:, 0] |= ~kept.any(dim=1)  # no zero rows
    return torch.where(kept, rows, 0.0)


# ---- conflicting ----------------------------------------------------------------------------------


@_family
def conflict(g: Generator, tasks: int) -> Tensor:
    return _around_mean(g, tasks, 0.1)


@_family
def hard_conflict(g: Generator, tasks: int) -> Tensor:
    return _around_mean(g, tasks, 1e-2)


@_family
def near_opposite(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, 2 * tasks + 8)
    rows[1::2] = -rows[: 2 * (tasks // 2) : 2] + 1e-3 * rows[1::2]
    return rows


@_family
def stationary(g: Generator, tasks: int) -> Tensor:
    return _around_mean(g, tasks, 0.0)


@_family
def stationary_face(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, 2 * tasks + 8)
    half = (tasks + 1) // 2
    weights = _uniform(g, half) + 0.1
    rows[:half] -= (weights / weights.sum()) @ rows[:half]
    return rows


@_family
def simplex(g: Generator, tasks: int) -> Tensor:
    return torch.eye(tasks, dtype=torch.float64) - 1.0 / tasks


@_family
def opposite(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, tasks + 4)
    rows[1::2] = -rows[: 2 * (tasks // 2) : 2]
    return rows


# ---- dependent rows -------------------------------------------------------------------------------


@_family
def rank_deficient(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, max(1, tasks // 2))


@_family
def rank_deficient_shared(g: Generator, tasks: int) -> Tensor:
    size = max(1, tasks // 2)
    return 0.3 * _normal(g, tasks, size) + 1.0 / size**0.5


@_family
def parallel(g: Generator, tasks: int) -> Tensor:
    return _normal(g, tasks, 1) * _normal(g, 1, 6)


@_family
def duplicates(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, (tasks + 1) // 2, 2 * tasks + 8)
    return rows.repeat(2, 1)[:tasks].clone()


@_family
def duplicates_opposite(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, (tasks + 2) // 3, 2 * tasks + 8)
    return torch.cat([rows, rows, -rows])[:tasks].clone()


@_family
def scaled_duplicates(g: Generator, tasks: int) -> Tensor:
    return duplicates(g, tasks) * _scales(g, tasks, 3.0)


@_family
def near_duplicates(g: Generator, tasks: int) -> Tensor:
    return duplicates(g, tasks) + 1e-3 * _normal(g, tasks, 2 * tasks + 8)


@_family
def near_duplicates_fine(g: Generator, tasks: int) -> Tensor:
    return duplicates(g, tasks) + 1e-8 * _normal(g, tasks, 2 * tasks + 8)


@_family
def ternary(g: Generator, tasks: int) -> Tensor:
    """Entries -1, 0, 1: exact ties and exact cancellation."""
    size = max(2, tasks)
    return torch.randint(-1, 2, (tasks, size), generator=g).to(torch.float64)


@_family
def zero_row(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, 2 * tasks + 8)
    rows[torch.randint(tasks, (), generator=g)] = 0.0
    return rows


@_family
def all_zero(g: Generator, tasks: int) -> Tensor:
    return torch.zeros(tasks, 5, dtype=torch.float64)


# ---- scales ---------------------------------------------------------------------------------------


@_family
def tiny(g: Generator, tasks: int) -> Tensor:
    return 1e-15 * random(g, tasks)


@_family
def huge(g: Generator, tasks: int) -> Tensor:
    return 1e15 * random(g, tasks)


@_family
def graded(g: Generator, tasks: int) -> Tensor:
    return random(g, tasks) * _scales(g, tasks, 3.0)


@_family
def steeply_graded(g: Generator, tasks: int) -> Tensor:
    return random(g, tasks) * _scales(g, tasks, 6.0)


@_family
def graded_conflict(g: Generator, tasks: int) -> Tensor:
    return conflict(g, tasks) * _scales(g, tasks, 3.0)


@_family
def graded_stationary(g: Generator, tasks: int) -> Tensor:
    return stationary(g, tasks) * _scales(g, tasks, 3.0)


@_family
def dominated(g: Generator, tasks: int) -> Tensor:
    rows = random(g, tasks)
    rows[0] *= 1e6
    return rows


@_family
def heavy_tailed(g: Generator, tasks: int) -> Tensor:
    rows = _normal(g, tasks, 2 * tasks + 8)
    return rows / _normal(g, *rows.shape).abs().clamp(min=1e-4)

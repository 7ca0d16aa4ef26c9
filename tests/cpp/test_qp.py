"""The quadratic program ``min ½ xᵀAx + hᵀx``, ``x >= 0`` [``eᵀx = c``], by its optimality conditions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from matrices import Case, cases

from .conftest import Solvers

OPTIMAL, UNBOUNDED = 0, 1


@dataclass
class Answer:
    case: Case
    a: np.ndarray
    x: np.ndarray
    h: np.ndarray
    status: int
    steps: int

    @property
    def gradient(self) -> np.ndarray:
        return self.a @ self.x + self.h

    @property
    def terms(self) -> np.ndarray:
        """The magnitudes that cancel in the gradient."""
        return np.abs(self.a) @ self.x + np.abs(self.h)


def preference(tasks: int) -> np.ndarray:
    """What ``solvers.cpp`` has."""
    return 0.5 + 1.0 / (1.0 + np.arange(tasks))


def cosines(case: Case) -> np.ndarray:
    gram = case.gram[0].numpy()
    lengths = np.sqrt(gram.diagonal())
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled = gram * inverse[:, None] * inverse
    np.fill_diagonal(scaled, lengths > 0)
    return scaled


def solve(solvers: Solvers, name: str, **kind: object) -> list[Answer]:
    asked = list(cases(**{"sizes": (1, 2, 3, 5, 8, 16, 40), "seeds": 2, **kind}))  # type: ignore[arg-type]
    answers = []
    for case, found in zip(asked, solvers(name, [(case, None) for case in asked]), strict=True):
        n = case.tasks
        x, h, status, steps = (found[0, at * n : (at + 1) * n] for at in range(4))
        answers.append(Answer(case, cosines(case), x, h, int(status[0]), int(steps[0])))
    return answers


def assert_optimal(answer: Answer, gradient: np.ndarray, terms: np.ndarray) -> None:
    """Neither x nor its gradient is negative, and where one is positive the other is zero."""
    assert (answer.x >= 0).all(), str(answer.case)
    assert (gradient >= -1e-12 * terms).all(), f"{answer.case}\n{gradient / terms}"
    passive = answer.x > 0
    assert (np.abs(gradient[passive]) <= 1e-11 * terms[passive].max(initial=0)).all(), str(
        answer.case
    )


def test_bounded_programs_are_solved(solvers: Solvers) -> None:
    for answer in solve(solvers, "quadratic_in_range"):
        assert answer.status == OPTIMAL, str(answer.case)
        assert_optimal(answer, answer.gradient, answer.terms)


def test_unbounded_programs_are_told_from_bounded_ones(solvers: Solvers) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    kinds = set()
    for answer in solve(solvers, "quadratic", sizes=(1, 2, 3, 5, 8), seeds=3):
        if answer.case.family in ("near_opposite", "near_duplicates_fine"):
            continue  # a float64 Gram matrix cannot tell these from dependent gradients
        kinds.add(answer.status)
        if answer.status == OPTIMAL:
            assert_optimal(answer, answer.gradient, answer.terms)
            continue
        # A direction that costs nothing and goes down: A p = 0, p >= 0, hᵀp < 0.
        assert answer.status == UNBOUNDED
        slack = 1e-9 * np.ones(len(answer.h))
        direction = optimize.linprog(
            answer.h,
            A_ub=np.vstack([answer.a, -answer.a]),
            b_ub=np.concatenate([slack, slack]),
            bounds=(0.0, 1.0),
        )
        assert direction.fun < -1e-3, str(answer.case)
    assert kinds == {OPTIMAL, UNBOUNDED}


def test_programs_with_a_sum_are_solved(solvers: Solvers) -> None:
    for answer in solve(solvers, "quadratic_with_sum"):
        assert answer.status == OPTIMAL, str(answer.case)
        e = preference(answer.case.tasks)
        assert e @ answer.x == pytest.approx(1.5, rel=1e-12)
        tau = answer.gradient @ answer.x / 1.5
        assert_optimal(answer, answer.gradient - tau * e, answer.terms + abs(tau) * e)


@pytest.mark.parametrize("name", ["quadratic", "quadratic_in_range", "quadratic_with_sum"])
def test_few_steps(name: str, solvers: Solvers) -> None:
    for answer in solve(solvers, name, sizes=(8, 40), seeds=1):
        assert answer.steps <= 2 * answer.case.tasks + 2, str(answer.case)

"""The solvers on an emulated warp: no race between its lanes, and the answer of one thread."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matrices import STATIONARY, Case, cases, norms

from .conftest import HERE, Asked, Solvers

NAMES = [
    line.split('"')[1]
    for line in (HERE / "solvers.cpp").read_text().splitlines()
    if line.startswith('  {"')
]

Answers = Callable[[str], list[tuple[Case, np.ndarray]]]


def problems() -> Iterator[Asked]:
    """More tasks than lanes, as many, and few; everybody takes part, or only some."""
    for case in cases(sizes=(2, 33), seeds=1):
        yield case, None
    for case in cases(("random", "graded_conflict", "ternary"), sizes=(1, 9, 32, 40), seeds=1):
        scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
        scale[1::3] = 0.0
        yield case, scale


@pytest.fixture(scope="module")
def answers(solvers: Solvers) -> Answers:
    """The answers of a solver to all problems, asked once."""
    asked = list(problems())

    @functools.cache
    def answers_of(name: str) -> list[tuple[Case, np.ndarray]]:
        found = solvers(name, asked)
        return [(case, numbers) for (case, _), numbers in zip(asked, found, strict=True)]

    return answers_of


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_lanes_changes_no_bit(name: str, answers: Answers) -> None:
    for case, (_, first, *others) in answers(name):
        for other in others:
            assert first.tobytes() == other.tobytes(), str(case)


@pytest.mark.parametrize("name", [name for name in NAMES if "quadratic" not in name])
def test_a_warp_agrees_with_one_thread(name: str, answers: Answers) -> None:
    for case, (serial, warp, *_) in answers(name):
        if case.family in STATIONARY:
            continue
        w, v = (torch.tensor(numbers[: case.tasks]) for numbers in (serial, warp))
        size = float(w.abs() @ norms(case.jacobian))
        assert float((case.jacobian.T @ (w - v)).norm()) <= 1e-9 * size, str(case)
        np.testing.assert_allclose(warp[case.tasks :], serial[case.tasks :], rtol=1e-9, atol=1e-9)


def test_a_race_is_noticed(tmp_path: Path, compiler: list[str]) -> None:
    """A lane that reads its neighbour's number before the sync point gets it in one order only."""
    source = tmp_path / "race.cpp"
    source.write_text(
        f'#include "{HERE / "emulated_warp.h"}"\n'
        "using namespace mtl_ops::testing;\n"
        "int main() {\n"
        "  for (Order order : {Order::kAscending, Order::kDescending, Order::kRandom}) {\n"
        "    double mine[32] = {}, seen[32];\n"
        "    Warp32 warp(order, 1);\n"
        "    warp.run([&](int lane) {\n"
        "      EmulatedWarp lanes(warp, lane);\n"
        "      mine[lane] = lane + 1;\n"
        "      seen[lane] = mine[(lane + 1) % 32];\n"
        "      const double total = lanes.sum(lane);\n"
        "      if (total != 496) std::abort();\n"
        "    });\n"
        "    double total = 0;\n"
        "    for (double value : seen) total += value;\n"
        '    std::printf("%g\\n", total);\n'
        "  }\n"
        "}\n"
    )
    program = tmp_path / "race"
    subprocess.run([*compiler, "-std=c++20", str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    ascending, descending, random = done.stdout.split()
    assert ascending == "1"  # only the last lane sees what the first one wrote
    assert descending == str(528 - 1)  # all but that one
    assert random not in (ascending, descending)

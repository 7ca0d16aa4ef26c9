"""The solvers on an emulated warp: no race between its lanes, and the answer of one thread."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matrices import STATIONARY, Case, cases, norms

HERE = Path(__file__).parent
NAMES = [
    line.split('"')[1]
    for line in (HERE / "solvers.cpp").read_text().splitlines()
    if line.startswith('  {"')
]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not (HERE.parents[1] / "setup.py").exists(),
    reason="needs the build script and a C++ compiler",
)

Answers = Callable[[str], list[tuple[Case, np.ndarray]]]


def compiler() -> list[str]:
    """The one that builds the extension."""
    spec = importlib.util.spec_from_file_location("build_script", HERE.parents[1] / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["build_script"] = script  # its dataclasses look themselves up
    spec.loader.exec_module(script)
    found: list[str] = script.find_compiler()
    return found


def problems() -> Iterator[tuple[Case, torch.Tensor | None]]:
    """More tasks than lanes, as many, and few; everybody takes part, or only some."""
    for case in cases(sizes=(2, 33), seeds=1):
        yield case, None
    for case in cases(("random", "graded_conflict", "ternary"), sizes=(1, 9, 32, 40), seeds=1):
        scale = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64)
        scale[1::3] = 0.0
        yield case, scale


def packed(case: Case, scale: torch.Tensor | None) -> bytes:
    header = np.array([case.tasks, scale is not None], dtype=np.int64)
    return b"".join(
        array.tobytes()
        for array in (header, case.gram.numpy(), () if scale is None else scale.numpy())
        if len(array)
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """For each problem what all schedules of its lanes answer, ``(5, n)``."""
    program = tmp_path_factory.mktemp("lanes") / "solvers"
    command = [*compiler(), "-std=c++20", "-O2", "-Wall", "-Wextra"]
    subprocess.run([*command, str(HERE / "solvers.cpp"), "-o", str(program)], check=True)
    asked = list(problems())
    data = b"".join(packed(case, scale) for case, scale in asked)

    @functools.cache
    def answers_of(name: str) -> list[tuple[Case, np.ndarray]]:
        done = subprocess.run([str(program), name], input=data, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        at, found = 0, []
        for case, _ in asked:
            count = int(np.frombuffer(done.stdout, dtype=np.int64, count=1, offset=at)[0])
            numbers = np.frombuffer(done.stdout, count=5 * count, offset=at + 8)
            found.append((case, numbers.reshape(5, count)))
            at += 8 + 40 * count
        assert at == len(done.stdout)
        return found

    return answers_of


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_lanes_changes_no_bit(name: str, answers: Answers) -> None:
    for case, (_, first, *others) in answers(name):
        for other in others:
            assert first.tobytes() == other.tobytes(), str(case)


@pytest.mark.parametrize("name", NAMES)
def test_a_warp_agrees_with_one_thread(name: str, answers: Answers) -> None:
    for case, (serial, warp, *_) in answers(name):
        if case.family in STATIONARY:
            continue
        w, v = (torch.tensor(numbers[: case.tasks]) for numbers in (serial, warp))
        size = float(w.abs() @ norms(case.jacobian))
        assert float((case.jacobian.T @ (w - v)).norm()) <= 1e-9 * size, str(case)
        np.testing.assert_allclose(warp[case.tasks :], serial[case.tasks :], rtol=1e-9, atol=1e-9)


def test_a_race_is_noticed(tmp_path: Path) -> None:
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
    subprocess.run([*compiler(), "-std=c++20", str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    ascending, descending, random = done.stdout.split()
    assert ascending == "1"  # only the last lane sees what the first one wrote
    assert descending == str(528 - 1)  # all but that one
    assert random not in (ascending, descending)

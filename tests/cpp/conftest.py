"""The program that runs the solvers on an emulated warp, compiled once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matrices import Case

HERE = Path(__file__).parent
SETUP = HERE.parents[1] / "setup.py"

#: A problem, and the scales of its tasks.
Asked = tuple[Case, torch.Tensor | None]

#: What the schedules of the lanes answer to each problem: ``(5, n)``, the first from one thread.
Solvers = Callable[[str, Sequence[Asked]], list[np.ndarray]]


@pytest.fixture(scope="session")
def compiler() -> list[str]:
    """The one that builds the extension."""
    if sys.platform == "win32" or not SETUP.exists():
        pytest.skip("needs the build script and a C++ compiler")
    spec = importlib.util.spec_from_file_location("build_script", SETUP)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["build_script"] = script  # its dataclasses look themselves up
    spec.loader.exec_module(script)
    found: list[str] = script.find_compiler()
    return found


@pytest.fixture(scope="session")
def solvers(compiler: list[str], tmp_path_factory: pytest.TempPathFactory) -> Solvers:
    """Calls a solver by its name in ``solvers.cpp``."""
    program = tmp_path_factory.mktemp("solvers") / "solvers"
    command = [
        *compiler,
        "-std=c++20",
        "-O1",
        "-Wall",
        "-Wextra",
    ]  # -O2 takes longer to compile than it saves
    subprocess.run([*command, str(HERE / "solvers.cpp"), "-o", str(program)], check=True)

    def call(name: str, asked: Sequence[Asked]) -> list[np.ndarray]:
        data = b"".join(_packed(case, scale) for case, scale in asked)
        done = subprocess.run([str(program), name], input=data, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return _unpacked(done.stdout, len(asked))

    return call


def _packed(case: Case, scale: torch.Tensor | None) -> bytes:
    header = np.array([case.tasks, scale is not None], dtype=np.int64)
    scales = b"" if scale is None else scale.numpy().tobytes()
    return header.tobytes() + case.gram.numpy().tobytes() + scales


def _unpacked(data: bytes, problems: int) -> list[np.ndarray]:
    at, answers = 0, []
    for _ in range(problems):
        count = int(np.frombuffer(data, dtype=np.int64, count=1, offset=at)[0])
        numbers = np.frombuffer(data, count=5 * count, offset=at + 8)
        answers.append(numbers.reshape(5, count))
        at += 8 + numbers.nbytes
    assert at == len(data)
    return answers

"""How the CUDA kernels share out elements, and pairs of tasks: the host's arithmetic."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def test_every_element_and_every_pair_is_somebodys(compiler: list[str], tmp_path: Path) -> None:
    program = tmp_path / "plan"
    command = [*compiler, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, str(HERE / "plan.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "checked\n", "")

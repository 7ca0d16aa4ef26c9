"""The examples with other packages run as they are, and are short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("package", ["lightning", "accelerate"])
def test_runs(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    example = FOLDER / f"with_{package}.py"
    if not example.exists():
        pytest.skip("the examples are in the source tree only")
    assert len(example.read_text().splitlines()) <= 30
    path = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""The instruction sets that this processor has, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtl_ops import _C

LEVELS = ["generic", "x86-64-v3", "x86-64-v4"]
CHILD = Path(__file__).parent / "every_kernel.py"


def child(level: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "MTL_OPS_SIMD": level, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_every_kernel(level: str) -> None:
    if level not in LEVELS[: LEVELS.index(_C.simd_level()) + 1]:
        pytest.skip(f"this processor has {_C.simd_level()}")
    found = child(level, str(CHILD), level)
    assert found.returncode == 0, found.stderr


def test_an_unknown_level_is_the_best_one() -> None:
    found = child("sse9", "-c", "from mtl_ops import _C; print(_C.simd_level())")
    assert found.stdout.strip() in LEVELS

"""``make cuda-check``: goes on after a step that fails, sums up, and fails if any did."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or not (ROOT / "Makefile").exists(),
    reason="needs make and the source tree",
)

PLAYED = """.PHONY: good bad late
good: ; @echo ran $@
bad: ; @exit 3
late: ; @echo ran $@
"""


def run(tmp_path: Path, all_steps: str, *arguments: str) -> tuple[int, str, dict[str, str]]:
    """The exit status, what is printed before the summary, and the summary."""
    more = tmp_path / "more.mk"
    more.write_text(PLAYED)
    folder = tmp_path / "checked"
    done = subprocess.run(
        ["make", "-s", "cuda-check", f"CUDA_STEPS={all_steps}", f"CHECKED={folder}", *arguments],
        cwd=ROOT,
        env={**os.environ, "MAKEFILES": str(more)},
        capture_output=True,
        text=True,
    )
    before, _, summary = done.stdout.partition("== summary\n")
    lines = [re.split(r"\s+", line, maxsplit=1) for line in summary.splitlines()]
    return done.returncode, before, dict(lines)


def test_goes_on_and_fails_in_the_end(tmp_path: Path) -> None:
    status, before, summary = run(tmp_path, "good bad late")
    assert status != 0
    assert "ran late" in before
    assert list(summary) == ["good", "bad", "late"]
    assert summary["good"].startswith("passed, ")
    assert summary["bad"].startswith("FAILED (exit status ")
    assert summary["late"].startswith("passed, ")


def test_steps_one_by_one_have_one_summary(tmp_path: Path) -> None:
    status, _, summary = run(tmp_path, "good bad late", "STEPS=bad")
    assert status != 0
    assert summary["good"] == "not run"
    status, before, summary = run(tmp_path, "good bad late", "STEPS=late")
    assert status == 0
    assert "ran good" not in before
    assert summary["bad"].startswith("FAILED")
    assert summary["late"].startswith("passed")


def test_nothing_runs_without_the_build(tmp_path: Path) -> None:
    """Nor does it without a GPU: here, the build is refused."""
    status, before, summary = run(tmp_path, "cuda-build good", f"VENV={tmp_path}")
    assert status != 0
    assert "ran good" not in before
    assert summary["cuda-build"].startswith("FAILED")
    assert summary["good"] == "not run"


def test_every_test_on_a_gpu_is_in_one_of_the_steps() -> None:
    """Folders that a step leaves out are another's."""
    text = (ROOT / "Makefile").read_text()
    commands = re.findall(r"pytest -m cuda -p no:cacheprovider (.*)", text)
    assert "tests --ignore=tests/cuda --ignore=tests/ops" in commands
    assert "tests/cuda --ignore=tests/cuda/test_step.py" in commands
    assert {"tests/ops", "tests/cuda/test_step.py"} <= set(commands)


def test_every_benchmark_is_a_step() -> None:
    benchmarks = pytest.importorskip("benchmarks.run", reason="the source tree has them")
    (names,) = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(names.split()) == sorted(benchmarks.BENCHMARKS)

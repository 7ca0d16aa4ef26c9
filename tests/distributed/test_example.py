"""The example of the README, launched by torchrun."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import free_port

SCRIPT = Path(__file__).parents[2] / "examples/scale_out.py"

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed"),
    pytest.mark.skipif(not SCRIPT.exists(), reason="the examples are in the source tree only"),
]


def alone(*args: str) -> list[float]:
    """The same without a launcher."""
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env = {**os.environ, **place, "MASTER_PORT": str(free_port())}
    return losses_of([sys.executable, str(SCRIPT), *args], env)


def launch(processes: int, *args: str) -> list[float]:
    """Under torchrun."""
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return losses_of([*command, *place, str(SCRIPT), *args], dict(os.environ))


def losses_of(command: list[str], env: dict[str, str]) -> list[float]:
    """Those of the whole batch in the last step."""
    done = subprocess.run(command, cwd=SCRIPT.parents[1], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"losses \[(.*)\]", done.stdout)
    return [float(number) for number in lines[-1].split(",")]


def test_it_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    split, whole = str(tmp_path / "split"), str(tmp_path / "whole")
    launch(2, split, "--steps", "3")
    resumed = alone(split, "--steps", "6", "--fsdp")
    assert resumed == pytest.approx(alone(whole, "--steps", "6"), rel=1e-5)


def test_it_is_short() -> None:
    lines = SCRIPT.read_text().splitlines()
    code = lines[lines.index('"""', 1) + 1 :]
    assert sum(1 for line in code if line.strip()) <= 40

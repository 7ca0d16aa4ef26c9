"""The examples with other packages run as they are, and are short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import free_port

FOLDER = Path(__file__).parents[2] / "examples"


def example_of(package: str) -> Path:
    example = FOLDER / f"with_{package}.py"
    if not example.exists():
        pytest.skip("the examples are in the source tree only")
    return example


def run(package: str, folder: Path, *launcher: str, **more: str) -> str:
    """What the example prints."""
    pytest.importorskip(package)
    example = example_of(package)
    path = os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *launcher, example],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["lightning", "accelerate"])
def test_runs(package: str, tmp_path: Path) -> None:
    run(package, tmp_path)


@pytest.mark.parametrize("package", ["lightning", "accelerate", "tensorboard", "transformers"])
def test_is_short(package: str) -> None:
    assert len(example_of(package).read_text().splitlines()) <= 30


#: On CPUs too: `accelerate launch --cpu` starts one process, whatever it is told.
LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc-per-node=2 --master-addr=127.0.0.1 --master-port={port}",
    "accelerate launch": "accelerate.commands.launch --multi_gpu --num_processes=2 --main_process_port={port}",
}


def losses(folder: Path, processes: int, *launcher: str) -> list[float]:
    """Those that one of the processes prints for all."""
    place = {"CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(folder)}  # no device, and no user's config
    printed = run("accelerate", folder, *launcher, **place)
    found = re.findall(r"processes: (\d+), losses: tensor\(\[(.*?)\]", printed)
    assert [count for count, _ in found] == [str(processes)]
    return [float(number) for number in found[0][1].split(",")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_accelerate_in_two_processes(launcher: str, alone: list[float], tmp_path: Path) -> None:
    """The losses are those of one process, up to the rounding of bfloat16."""
    command = LAUNCHERS[launcher].format(port=free_port()).split()
    assert losses(tmp_path, 2, "-m", *command) == pytest.approx(alone, rel=5e-3)


def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    run("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert {"loss/sum", "weight/max", "norm/sum", "cosine/sum/max"} <= set(events.Tags()["scalars"])
    curve = events.Scalars("loss/sum")
    assert [point.step for point in curve] == list(range(0, 200, 10))
    assert curve[-1].value < 0.5 * curve[0].value

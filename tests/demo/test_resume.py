"""Killed or interrupted in the middle, resumed, and equal bit for bit to a run left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mtl_ops.demo.checkpoint import load_checkpoint

from .conftest import Result

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Invoke = Callable[..., Result]

#: One that draws random numbers at every step, one with a memory, one with parameters of its own.
METHODS = ("pcgrad", "famo", "uncertainty")
METHOD = METHODS[1]
OPTIONS = ("--tasks", "digit,reconstruction", "--seed", "3", "--epochs", "4")
OPTIONS += ("--method", ",".join(METHODS))
LABELS = ("single-digit", "single-reconstruction", "plain", *METHODS)


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtl_ops.demo.command.draw", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, invoke: Invoke) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    result = invoke("train", *OPTIONS, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


def _train(name: str, label: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Train in a process that gets a signal in the second epoch of a training."""
    script = Path(__file__).with_name("child.py")
    return subprocess.run(
        [sys.executable, script, name, label, "train", *OPTIONS, "--out", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _state(folder: Path, label: str) -> dict[str, object] | None:
    return load_checkpoint(folder / "checkpoints" / f"{label}-seed3.pt", "cpu")


def _assert_same(folder: Path, whole: Path) -> None:
    """The same histories, and the same weights at the end."""
    one, two = (json.loads((path / "results.json").read_text()) for path in (folder, whole))
    assert one["histories"] == two["histories"]
    for left, right in zip(one["rows"], two["rows"], strict=True):
        measured = {"milliseconds": 0, "overhead": 0}
        assert {**left, **measured} == {**right, **measured}
    for label in LABELS:
        left, right = _state(folder, label), _state(whole, label)
        assert left is not None
        assert right is not None
        torch.testing.assert_close(left["model"], right["model"], rtol=0, atol=0)


def test_killed_and_resumed(whole: Path, invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = _train("SIGKILL", METHOD, folder)
    assert process.returncode == -signal.SIGKILL, process.stderr
    state = _state(folder, METHOD)
    assert state is not None
    assert state["epoch"] == 1
    assert not (folder / "results.json").exists()
    result = invoke("train", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    _assert_same(folder, whole)
    # Every epoch is logged once, those before the kill and those after it.
    events = EventAccumulator(str(folder / "tensorboard" / METHOD / "seed3"))
    events.Reload()
    assert [each.step for each in events.Scalars("loss/reconstruction")] == [1, 2, 3, 4]


def test_interrupted_from_the_keyboard(whole: Path, invoke: Invoke, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    process = _train("SIGINT", "single-reconstruction", folder)
    assert process.returncode == 130, process.stderr
    assert process.stdout == ""
    last = process.stderr.splitlines()[-1]
    assert last == f"Interrupted. Go on with: mtl-ops train --resume --out '{folder}'"
    assert "Traceback" not in process.stderr
    state = _state(folder, "single-reconstruction")
    assert state is not None
    assert state["epoch"] == 1
    result = invoke("train", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    _assert_same(folder, whole)


def test_an_epoch_logged_but_not_saved_is_trained_again_and_counted_once(
    whole: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two writes at the end of an epoch."""
    folder = tmp_path / "out"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mtl_ops.demo.experiment.save_checkpoint", killed)
        assert invoke("train", *OPTIONS, "--out", folder).exit_code == 130
    assert _state(folder, "single-digit") is None
    assert invoke("train", "--resume", "--out", folder).exit_code == 0
    _assert_same(folder, whole)
    events = EventAccumulator(str(folder / "tensorboard" / "single-digit" / "seed3"))
    events.Reload()
    assert [each.step for each in events.Scalars("loss/digit")] == [1, 2, 3, 4]


@pytest.mark.parametrize("moment", [1, 7, 20])
def test_killed_at_a_change_of_the_folder(
    whole: Path,
    invoke: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    """Before one of the renamings that a session makes; nothing is tidied up after it."""
    folder = tmp_path / "out"
    count, real = 0, os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("mtl_ops.demo.writer.os.replace", replace)
        result = invoke("train", *OPTIONS, "--out", folder)
    if moment == 1:
        # The options are not there yet, so there is nothing to resume.
        assert not (folder / "config.json").exists()
        assert invoke("train", *OPTIONS, "--out", folder).exit_code == 0
    else:
        assert result.exit_code == 130, result.output
        result = invoke("train", "--resume", "--out", folder)
        assert result.exit_code == 0, result.output
    _assert_same(folder, whole)

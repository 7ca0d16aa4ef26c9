"""Damaged, foreign and unwritable files of an experiment: one sentence, and nothing is lost."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_ops.data import Split
from mtl_ops.demo import writer
from mtl_ops.demo.checkpoint import load_checkpoint, save_checkpoint
from mtl_ops.demo.config import Config, Run
from mtl_ops.demo.files import RunFolder
from mtl_ops.demo.restored import restore, state_to_save
from mtl_ops.demo.trainer import Trainer
from mtl_ops.demo.writer import FolderError, backup_of

from .conftest import Result

pytest.importorskip("tensorboard")

from mtl_ops.demo.experiment import load_data

Invoke = Callable[..., Result]
Finished = tuple[Path, Result]

TASKS = ("digit", "reconstruction")
CONFIG = Config(methods=("sum",), tasks=TASKS, seeds=(0, 1), epochs=3)
RUN = Run("sum", 0, TASKS)


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtl_ops.demo.command.draw", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def split() -> Split:
    return load_data(CONFIG, 0)


@pytest.fixture(scope="module")
def states(split: Split) -> list[dict[str, Any]]:
    """After the first and after the second of three epochs."""
    trainer = Trainer(CONFIG, RUN, split)
    found = []
    for _ in range(2):
        trainer.train_epoch()
        # The trainer goes on with the same tensors and lists.
        found.append(copy.deepcopy(state_to_save(trainer)))
    return found


@pytest.fixture
def run_folder(tmp_path: Path, states: list[dict[str, Any]]) -> RunFolder:
    """A run_folder with the newest state and the one before."""
    run_folder = RunFolder(tmp_path)
    for state in states:
        save_checkpoint(run_folder.checkpoint(RUN), state)
    return run_folder


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _altered(**values: Any) -> Callable[[Path], None]:
    def alter(path: Path) -> None:
        state = load_checkpoint(path, "cpu")
        assert state is not None
        torch.save({**state, **values}, path)

    return alter


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged, or no checkpoint"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged, or no check"),
    "one bit": (_flipped, "is damaged, or no checkpoint"),
    "text": (lambda path: path.write_text("weights"), "is damaged, or no checkpoint"),
    "no dict": (lambda path: torch.save([1, 2], path), "is damaged, or no checkpoint"),
    "run_folder": (_folder, "is no regular file"),
    "link to itself": (_loop, "is no regular file"),
    "missing": (lambda path: path.unlink(), "is missing"),
    "another model": (lambda path: torch.save({"model": {}}, path), "is not of this training"),
    "another seed": (_altered(run="sum-seed1"), r"is not of this training \(sum-seed0\)"),
    "other options": (_altered(config={**CONFIG.identity(), "epochs": 4}), "is not of this tra"),
    "too late": (_altered(epoch=4), "is no checkpoint of a training"),
    "no number": (_altered(epoch="2"), "is no checkpoint of a training"),
    "fewer epochs": (_altered(epoch=1), "holds no record of the epochs that it counts"),
    "no history": (_altered(history={}), "holds no record"),
    "other weights": (_altered(model={"a": torch.zeros(2)}), "does not fit this training"),
    "no optimizer": (_altered(optimizer={}), "does not fit this training"),
    "no generator": (_altered(order=torch.zeros(3)), "does not fit this training"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_the_state_before_a_damaged_one_is_taken(
    kind: str, run_folder: RunFolder, split: Split
) -> None:
    spoil, message = SPOILED[kind]
    path = run_folder.checkpoint(RUN)
    spoil(path)
    there = os.path.lexists(path)
    said: list[str] = []
    found = restore(CONFIG, RUN, split, run_folder, said.append)
    assert found is not None
    assert found.trainer is not None
    assert found.trainer.epoch == len(found.history["loss"]) == 1
    (sentence,) = said
    _matches(rf"File {path} {message}.*; going on from sum-seed0\.pt\.backup, the st", sentence)
    # What was there is kept under another name, and the next state is no obstacle to anything.
    assert os.path.lexists(f"{path}.damaged") == there
    found.trainer.train_epoch()
    save_checkpoint(path, state_to_save(found.trainer))
    again = restore(CONFIG, RUN, split, run_folder, said.append)
    assert again is not None
    assert len(again.history["loss"]) == 2
    assert len(said) == 1


@pytest.mark.parametrize("kind", [kind for kind in SPOILED if kind != "missing"])
def test_without_a_state_before_it_nothing_is_trained(
    kind: str, run_folder: RunFolder, split: Split
) -> None:
    spoil, message = SPOILED[kind]
    path = run_folder.checkpoint(RUN)
    backup_of(path).unlink()
    spoil(path)
    with pytest.raises(FolderError) as caught:
        restore(CONFIG, RUN, split, run_folder, lambda text: None)
    _matches(rf"File {path} {message}.* no earlier state .* remove it", str(caught.value))
    assert os.path.lexists(path)


def _matches(pattern: str, text: str) -> None:
    assert re.match(pattern, text), text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    """A folder of the folder of a finished experiment."""
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def _said(result: Result) -> str:
    """All that was said, without the frame around errors and on one line."""
    return " ".join(result.output.replace("│", " ").split())


def _refused(result: Result, *parts: str) -> None:
    said = _said(result)
    assert result.exit_code == 2, said
    assert "Traceback" not in said
    for part in parts:
        assert part.replace(" ", "") in said.replace(" ", ""), said


def test_resumed_from_the_state_before_it_is_the_same_to_the_bit(
    finished: Finished, folder: Path, invoke: Invoke
) -> None:
    for name in ("sum-seed0.pt", "single-digit-seed1.pt"):
        _flipped(folder / "checkpoints" / name)
    result = invoke("train", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    assert _said(result).count("is damaged, or no checkpoint") == 2
    for part in ("rows", "histories", "timing"):
        one, two = (
            json.loads((each / "results.json").read_text()) for each in (folder, finished[0])
        )
        assert one[part] == two[part]
    for path in finished[0].glob("checkpoints/*.pt"):
        left, right = (torch.load(each) for each in (path, folder / "checkpoints" / path.name))
        torch.testing.assert_close(left["model"], right["model"], rtol=0, atol=0)


@pytest.mark.parametrize("text", ["{", '{"sum": 3}', '{"sum": {"median": 1.0, "low": 1.0}}'])
def test_damaged_times_are_measured_again(folder: Path, invoke: Invoke, text: str) -> None:
    (folder / "timing.json").write_text(text)
    result = invoke("train", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    assert f"{folder / 'timing.json'}" in _said(result)
    assert "the steps are timed again." in _said(result)
    assert (folder / "timing.json.damaged").read_text() == text
    assert "sum" in json.loads((folder / "timing.json").read_text())


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("epochs", "many", "`epochs = 'many'`"),
        ("epochs", 0, "`epochs = 0`"),
        ("epochs", True, "`epochs = True`"),
        ("batch_size", -1, "`batch_size = -1`"),
        ("learning_rate", "1e-3", "`learning_rate = '1e-3'`"),
        ("seeds", [], "`seeds = []`"),
        ("seeds", [2**32], "`seeds = [4294967296]`"),
        ("tasks", "digit", "`tasks = 'digit'`"),
        ("tasks", ["digit", "digit"], "`tasks = ['digit', 'digit']`"),
        ("tasks", ["digit", "smell"], "names 'smell', which example 'digits' has not"),
        ("groups", [["digit"], ["smell"]], "names 'smell', which example 'digits' has not"),
        ("methods", ["sum", 3], "`methods = ['sum', 3]`"),
        ("methods", ["no_such"], "`methods = ['no_such']`"),
        ("example", "poems", "`example = 'poems'`"),
        ("example", "physics", "which example 'physics' has not"),
        ("device", "toaster", "`device = 'toaster'`"),
        ("architecture", "gcn", "names 'gcn', which example 'digits' has not"),
        ("size", None, "`size = None`"),
        ("order", "loss!", "`order = 'loss!'`"),
        ("closing_joint", 1, "`closing_joint = 1`"),
        ("data", 7, "`data = 7`"),
    ],
)
def test_altered_options_are_named(
    folder: Path, invoke: Invoke, name: str, value: Any, found: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    before = _contents(folder)
    _refused(invoke("train", "--resume", "--out", folder), f"File {path}", found)
    assert _contents(folder) == before


@pytest.mark.parametrize("text", ["", "[" * 100_000, "9" * 10_000, "null", '{"epochs": 1e999}'])
def test_options_that_are_none(folder: Path, invoke: Invoke, text: str) -> None:
    path = folder / "config.json"
    path.write_text(text)
    for more in (("--resume",), ()):
        _refused(invoke("train", *more, "--out", folder), f"File {path}", "no options")
    assert path.read_text() == text


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


#: Each file that is written, by the end of its name.
WRITTEN = (
    "config.json",
    "events.out.tfevents.0000000002",
    "sum-seed0.pt",
    "timing.json",
    "results.json",
    "table.txt",
)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, errno.ENOSPC) for name in WRITTEN),
        ("sum-seed0.pt", errno.EROFS),
        ("results.json", errno.EACCES),
    ],
)
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_lost(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    (folder / "timing.json").unlink()
    (folder / "checkpoints" / "sum-seed0.pt").unlink()
    before = _contents(folder)
    real = os.replace

    def refuse(source: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(code, os.strerror(code))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "replace", refuse)
        result = invoke("train", "--resume", "--out", folder)
    _refused(result, f"/{name} cannot be written: {os.strerror(code)}")
    after = _contents(folder)
    assert [path for path in after if path.name.endswith(".part")] == []
    for path, data in before.items():
        # A log is made anew from the checkpoint, and an epoch that is trained again leaves it.
        if path.name == name and "events" not in name:
            assert after[path] == data
    result = invoke("train", "--resume", "--out", folder)
    assert result.exit_code == 0, result.output
    assert {path.name for path in before} <= {path.name for path in _contents(folder)}


def test_a_full_standard_output_is_a_sentence(folder: Path, invoke: Invoke) -> None:
    """Everything is saved by then."""
    (folder / "table.txt").unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtl_ops.demo.command.for_results", full)
        result = invoke("train", "--resume", "--out", folder)
    _refused(result, "cannot be used: No space left on device.")
    assert (folder / "table.txt").exists()


def test_a_file_as_the_folder(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "thesis.tex"
    path.write_text("words")
    _refused(invoke("train", "--out", path), f"File {path} is in the way")
    _refused(invoke("train", "--resume", "--out", path), "holds no experiment to resume")
    assert path.read_text() == "words"
    _refused(invoke("train", "--method", "sum", "--out", path / "inner"), "cannot be used: Not a")


def test_a_file_where_the_checkpoints_go(folder: Path, invoke: Invoke) -> None:
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").touch()
    _refused(invoke("train", "--resume", "--out", folder), "checkpoints/", "cannot be written: ")


def test_pruning_looks_at_what_it_reads(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged between the training and the pruning."""
    path = folder / "checkpoints" / "sum-seed0.pt"
    monkeypatch.setattr("mtl_ops.demo.command._print_table", lambda *_: _flipped(path))
    result = invoke("train", "--resume", "--out", folder, "--seed", "0", "--prune", "0.5")
    # The epoch before it is no substitute.
    _refused(result, "sum-seed0.pt is damaged", "no earlier state")
    assert path.exists()


def test_killed_processes_leave_no_part_behind_for_long(folder: Path, invoke: Invoke) -> None:
    part = folder / ".results.json.part"
    part.write_text("{")
    assert invoke("train", "--resume", "--out", folder).exit_code == 0
    assert not part.exists()

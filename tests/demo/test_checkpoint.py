"""Files are whole or not there."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from mtl_ops.demo import writer
from mtl_ops.demo.checkpoint import (
    DamagedError,
    last_good,
    load_checkpoint,
    load_json,
    save_checkpoint,
    save_json,
)
from mtl_ops.demo.writer import FolderError, backup_of


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    state = {"epoch": 3, "weights": torch.arange(4.0), "history": {"loss": [[0.5, math.nan]]}}
    save_checkpoint(tmp_path / "new" / "run.pt", state)
    loaded = load_checkpoint(tmp_path / "new" / "run.pt", "cpu")
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["weights"], state["weights"])
    assert math.isnan(loaded["history"]["loss"][0][1])


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "run.pt", "cpu") is None
    assert load_json(tmp_path / "run.json") is None


def test_a_checkpoint_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"path": Runs()}, tmp_path / "run.pt")
    with pytest.raises(DamagedError, match="no checkpoint"):
        load_checkpoint(tmp_path / "run.pt", "cpu")
    assert not (tmp_path / "made").exists()


def test_killed_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"epoch": 1})

    def half(handle: int) -> None:
        os.ftruncate(handle, 13)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.os, "fsync", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path, "cpu") == {"epoch": 1}
    # What was left is no obstacle, and does not stay.
    save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path, "cpu") == {"epoch": 2}
    assert load_checkpoint(backup_of(path), "cpu") == {"epoch": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"run.pt", "run.pt.backup"}


@pytest.mark.parametrize("moment", range(5))
def test_killed_at_any_moment_leaves_one_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before and after each call that changes the folder, and again when it goes on from there."""
    path = tmp_path / "run.pt"
    for epoch in (1, 2):
        save_checkpoint(path, {"epoch": epoch})
    for epoch in (3, 4):
        with monkeypatch.context() as patch:
            _die_at(patch, moment)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(path, {"epoch": epoch})
        said: list[str] = []
        found = last_good(path, lambda each: load_checkpoint(each, "cpu"), said.append)
        assert found is not None
        assert found["epoch"] in ({2, 3, 4} if moment == 4 else {2})
        # The moment between two names is the only one at which the newest is not there.
        assert len(said) == (moment == 3)
    save_checkpoint(path, {"epoch": 5})
    assert load_checkpoint(path, "cpu") == {"epoch": 5}


def _die_at(patch: pytest.MonkeyPatch, moment: int) -> None:
    """Die before forcing to the disk, after it, before the second name, or after the last."""
    replaces = []

    def replace(source: Path, target: Path) -> None:
        replaces.append(target)
        if moment == 2 and len(replaces) == 1:
            raise KeyboardInterrupt
        if moment == 3 and target.name == "run.pt":
            raise KeyboardInterrupt
        real_replace(source, target)
        if moment == 4 and target.name == "run.pt":
            raise KeyboardInterrupt

    real_replace, real_fsync = os.replace, os.fsync

    def fsync(handle: int) -> None:
        if moment == 0:
            raise KeyboardInterrupt
        real_fsync(handle)
        if moment == 1:
            raise KeyboardInterrupt

    patch.setattr(writer.os, "replace", replace)
    patch.setattr(writer.os, "fsync", fsync)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.os, call, full)
    with pytest.raises(FolderError, match=r"run\.pt cannot be written: No space left on device; "):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path, "cpu") == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match=r"run\.pt cannot be written: (Not a dir|File exists)"):
        save_json(tmp_path / "file" / "run.pt", {})


def test_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    """In the values too, of which torch checks no sum; elsewhere it may mean nothing."""
    path = tmp_path / "run.pt"
    state = {"epoch": 3, "weights": torch.arange(64.0)}
    save_checkpoint(path, state)
    data = path.read_bytes()
    source = random.Random(0)
    values = data.index(state["weights"].numpy().tobytes())
    inner = range(values, values + 256)
    seen = 0
    for place in [*inner[::16], *(source.randrange(len(data)) for _ in range(100))]:
        changed = bytearray(data)
        changed[place] ^= 1 << source.randrange(8)
        path.write_bytes(changed)
        try:
            loaded = load_checkpoint(path, "cpu")
        except DamagedError:
            seen += 1
            continue
        assert place not in inner
        assert loaded is not None
        assert torch.equal(loaded["weights"], state["weights"])
    assert seen > 30


def test_truncated_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"epoch": 3, "weights": torch.arange(4.0)})
    data = path.read_bytes()
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        with pytest.raises(DamagedError, match="is damaged, or no checkpoint"):
            load_checkpoint(path, "cpu")


def test_what_expands_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "run.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    with pytest.raises(DamagedError):
        load_checkpoint(tmp_path / "run.pt", "cpu")


def test_killed_while_writing_leaves_the_old_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "values.json"
    save_json(path, {"a": 1})

    def refuse(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.os, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        save_json(path, {"a": 2})
    assert load_json(path) == {"a": 1}


def test_json_is_strict(tmp_path: Path) -> None:
    values = {1: math.nan, "b": (math.inf, True, None), "path": tmp_path}
    save_json(tmp_path / "values.json", values)
    text = (tmp_path / "values.json").read_text()

    def forbid(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=forbid) == {
        "1": None,
        "b": [None, True, None],
        "path": str(tmp_path),
    }

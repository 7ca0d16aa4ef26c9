"""Files are whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mtl_ops.demo import checkpoint
from mtl_ops.demo.checkpoint import load_checkpoint, load_json, save_checkpoint, save_json


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
    torch.save({"path": tmp_path}, tmp_path / "run.pt")
    with pytest.raises(Exception, match=r"Weights only load failed"):
        load_checkpoint(tmp_path / "run.pt", "cpu")


def test_killed_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, {"epoch": 1})

    def half(state: object, target: Path) -> None:
        target.write_bytes(b"half a checkp")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path, "cpu") == {"epoch": 1}
    # What was left is no obstacle, and does not stay.
    save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path, "cpu") == {"epoch": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_killed_while_writing_leaves_the_old_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "values.json"
    save_json(path, {"a": 1})

    def refuse(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", refuse)
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

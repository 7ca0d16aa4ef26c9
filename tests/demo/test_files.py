"""The folder of an experiment: new, resumed, in use, or somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtl_ops.demo.config import Config
from mtl_ops.demo.files import FolderError, Layout, find_folder, open_folder, read_config

CONFIG = Config(methods=("sum",), seeds=(0, 1), epochs=3)


@pytest.fixture
def used(tmp_path: Path) -> Layout:
    """A folder that holds an experiment with :data:`CONFIG`."""
    layout = Layout(tmp_path / "used")
    with open_folder(layout, CONFIG):
        pass
    return layout


def test_a_new_folder_gets_the_options_and_the_defaults(tmp_path: Path) -> None:
    layout = find_folder(tmp_path / "a" / "b", resume=False)
    config = read_config(layout, {"epochs": 4}, resume=False)
    assert config == Config(epochs=4)
    assert not layout.root.exists()
    with open_folder(layout, config):
        assert Config.from_json(json.loads(layout.config.read_text())) == config


def test_a_resumed_folder_keeps_its_options(used: Layout) -> None:
    assert read_config(used, {}, resume=True) == CONFIG
    assert read_config(used, {"epochs": 3}, resume=True) == CONFIG


def test_methods_and_seeds_may_change(used: Layout) -> None:
    config = read_config(used, {"methods": ("mean",), "seeds": (5,)}, resume=True)
    assert config == Config(methods=("mean",), seeds=(5,), epochs=3)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("epochs", 5, r"`epochs = 3` and cannot go on with `epochs = 5`"),
        ("device", "cuda", r"`device = cpu` and cannot go on with `device = cuda`"),
        ("tasks", ("digit", "parity"), r"cannot go on with `tasks = digit, parity`"),
    ],
)
def test_other_options_are_refused(used: Layout, name: str, value: Any, found: str) -> None:
    with pytest.raises(FolderError, match=found) as caught:
        read_config(used, {name: value}, resume=True)
    assert _is_one_sentence(str(caught.value))


def test_an_experiment_is_not_overwritten(used: Layout) -> None:
    with pytest.raises(FolderError, match=r"holds an experiment already; .* `--resume`"):
        read_config(used, {}, resume=False)


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="holds no experiment to resume"):
        read_config(Layout(tmp_path), {}, resume=True)


def test_somebody_elses_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match="is not empty"):
        read_config(Layout(tmp_path), {}, resume=False)


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.part").write_text("{")
    assert read_config(Layout(tmp_path), {}, resume=False) == Config()


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("text", ["{", "[]", '{"port": 8080}', "\x00\ufffe"])
def test_a_config_of_another_program_is_refused(tmp_path: Path, text: str, resume: bool) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FolderError, match="holds no options of this experiment"):
        read_config(Layout(tmp_path), {}, resume=resume)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(FolderError, match="file cannot be used: File exists")
    with refused, open_folder(Layout(tmp_path / "file"), CONFIG):
        pass


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused = pytest.raises(FolderError, match="cannot be used: No space left on device")
    with refused, open_folder(Layout(tmp_path / "new"), CONFIG):
        pass


HOLD = """
import sys
from pathlib import Path
from mtl_ops.demo.config import Config
from mtl_ops.demo.files import Layout, open_folder
with open_folder(Layout(Path(sys.argv[1])), Config()):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_until_the_process_is_dead(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "busy")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        before = layout.config.read_text()
        refused = pytest.raises(FolderError, match="in use by another process")
        with refused, open_folder(layout, CONFIG):
            pass
        assert layout.config.read_text() == before
    finally:
        holder.kill()
        holder.wait()
    with open_folder(layout, CONFIG):
        assert Config.from_json(json.loads(layout.config.read_text())) == CONFIG


def test_without_a_name_the_next_free_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roots = []
    for _ in range(3):
        layout = find_folder(None, resume=False)
        roots.append(str(layout.root))
        with open_folder(layout, CONFIG):
            pass
    assert roots == ["runs/digits", "runs/digits-2", "runs/digits-3"]


def test_without_a_name_the_folder_opened_last_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(find_folder(None, resume=True).root) == "runs/digits"
    for age, name in enumerate(("digits-2", "digits", "digits-3")):
        layout = Layout(Path("runs") / name)
        with open_folder(layout, CONFIG):
            pass
        os.utime(layout.config, (1_000_000 - age, 1_000_000 - age))
    Path("runs/digits-4").mkdir()
    assert str(find_folder(None, resume=True).root) == "runs/digits-2"


def test_each_example_has_folders_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one's name is the beginning of another's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mtl_ops.examples.names", lambda: ["digits", "digits-more"])
    for age, name in enumerate(("digits-more-2", "digits-more", "digits")):
        layout = Layout(Path("runs") / name)
        with open_folder(layout, CONFIG):
            pass
        os.utime(layout.config, (1_000_000 - age, 1_000_000 - age))
    assert str(find_folder(None, resume=True, example="digits").root) == "runs/digits"
    assert str(find_folder(None, resume=True, example="digits-more").root) == "runs/digits-more-2"
    assert str(find_folder(None, resume=True).root) == "runs/digits-more-2"
    assert str(find_folder(None, resume=False, example="digits").root) == "runs/digits-2"


def _is_one_sentence(text: str) -> bool:
    return "\n" not in text and text.endswith(".") and text.count(". ") == 0

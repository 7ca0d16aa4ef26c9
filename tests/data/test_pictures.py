"""CelebA, Office-31 and Office-Home."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folders import write_celeba, write_office

from mtl_ops.data.folders import DataError
from mtl_ops.data.pictures import celeba, celeba_attributes, office, office_domains


def test_faces_and_attributes(tmp_path: Path) -> None:
    write_celeba(tmp_path, 16)
    assert celeba_attributes(tmp_path) == ["Bald", "Smiling", "Young"]
    train, test = celeba(tmp_path)
    assert train["input"].shape == (12, 3, 64, 64)
    assert 0.3 < train["input"].mean() < 0.7
    assert test["Bald"].shape == (2,)
    marks = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    # Numbers 8 and 16 are the test part.
    assert test["Smiling"].tolist() == [float(marks[k + 1].split()[2] == "1") for k in (8, 16)]
    assert len(celeba(tmp_path, (3, 1)).train["input"]) == 3


def _line(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).open("a").write(text) and None


def _cut(folder: Path) -> None:
    path = folder / "img_align_celeba" / "000001.jpg"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_line("list_attr_celeba.txt", "x.jpg 1 -1\n"), r"attr_celeba.*3 times -1 or 1.*line 11"),
        (_line("list_attr_celeba.txt", "x.jpg 1 -1 no\n"), r"attr_celeba.*does not in line 11"),
        (_line("list_eval_partition.txt", "y.jpg 0\n"), r"partition.*does not in line 9"),
        (_line("list_eval_partition.txt", "000001.jpg 7\n"), r"partition.*does not in line 9"),
        (lambda folder: (folder / "list_attr_celeba.txt").write_text("8\n"), "should begin with"),
        (lambda folder: (folder / "list_attr_celeba.txt").write_bytes(b"\xff"), "no text file"),
        (
            lambda folder: (folder / "list_attr_celeba.txt").unlink(),
            "lacks list_attr_celeba.*mmlab",
        ),
        (lambda folder: (folder / "list_eval_partition.txt").unlink(), "lacks list_eval"),
        (
            lambda folder: (folder / "list_eval_partition.txt").write_text(""),
            "no photograph of part 0",
        ),
        (_cut, r"000001\.jpg is truncated, or no picture"),
        (
            lambda folder: (folder / "img_align_celeba/000001.jpg").unlink(),
            r"000001\.jpg is missing",
        ),
    ],
)
def test_what_is_not_celeba(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    write_celeba(tmp_path, 8)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        celeba(tmp_path)


@pytest.mark.parametrize("inner", ["", "images"])
def test_domains_have_the_same_classes(tmp_path: Path, inner: str) -> None:
    write_office(tmp_path, inner)
    assert list(office_domains(tmp_path)) == ["art", "photo"]
    (train, test), classes = office(tmp_path, seed=1)
    assert classes == ["bike", "mug"]
    assert train["art"]["art"].tolist() == [0] * 4 + [1] * 4
    assert test["photo"]["photo"].tolist() == [0, 1]
    assert train["photo"]["input"].shape == (8, 3, 64, 64)
    other = office(tmp_path, seed=2)[0]
    assert not torch.equal(other.test["art"]["input"], test["art"]["input"])


def test_what_is_not_office(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks photographs .* of two domains; get the Office"):
        office_domains(tmp_path)
    write_office(tmp_path)
    path = tmp_path / "art" / "mug" / "3.jpg"
    path.write_text("a mug")
    with pytest.raises(DataError, match=rf"{path} is truncated, or no picture"):
        office(tmp_path)
    for name in ("bike", "mug"):
        for place in range(1, 5):
            (tmp_path / "art" / name / f"{place}.jpg").unlink()
    with pytest.raises(DataError, match="should hold two photographs"):
        office(tmp_path)

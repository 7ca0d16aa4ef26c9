"""MNIST's format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import idx, write_mnist

from mtl_ops.data.folders import DataError
from mtl_ops.data.idx import FILES, mnist, read_idx


def test_images_and_all_targets(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    train, test = mnist(tmp_path)
    assert train["input"].shape == (20, 1, 28, 28)
    assert train["digit"].tolist() == [*range(10)] * 2
    assert test["parity"].tolist() == [0, 1] * 5
    assert test["reconstruction"].shape == (10, 784)
    torch.testing.assert_close(train["input"].std(correction=0), torch.tensor(1.0))
    assert len(mnist(tmp_path, limit=3).test["digit"]) == 3


def test_compressed_files_say_the_same(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    before = mnist(tmp_path)
    for name in FILES:
        plain = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert torch.equal(mnist(tmp_path).train["input"], before.train["input"])


def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(DataError, match=rf"lacks {FILES[1]}; get the files from .*torchvision"):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(np.zeros((20, 28, 28)))[:-1], "should hold 15680 bytes .* and holds 15679"),
        (idx(np.zeros((20, 28, 28))) + b"x", "and holds 15681"),
        (b"", "no IDX file"),
        (b"\x00\x00\x08", "no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "truncated in its head"),
        (b"not a picture at all", "no IDX file"),
        (b"\x00\x00\x0d\x03" + bytes(12), "no IDX file"),
        (idx(np.zeros((20, 28))), "one label for each"),
        (idx(np.zeros((19, 28, 28))), "one label for each of 19 images"),
    ],
)
def test_broken_images(tmp_path: Path, data: bytes, message: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / FILES[0]).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        mnist(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_labels_beyond_nine(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / FILES[3]).write_bytes(idx(np.full(10, 10)))
    with pytest.raises(DataError, match=rf"{FILES[3]} should hold labels from 0 to 9"):
        mnist(tmp_path)


def test_a_broken_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((3, 3))))[:-9])
    with pytest.raises(DataError, match="truncated, or no gzip file"):
        read_idx(path)

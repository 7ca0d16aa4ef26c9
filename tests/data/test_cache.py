"""Arrays that are kept: taken again if whole and of the same files, else made anew and never half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl_ops.data import cache
from mtl_ops.data.cache import cached


class Maker:
    """Counts how often arrays are made, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source.csv"
        self.source.write_text("1,2\n")
        self.count = 0
        self.said: list[str] = []

    def __call__(self, version: int = 1) -> dict[str, Any]:
        return cached("things", [self.source], version, self.make, self.said.append)

    def make(self, say: Any) -> dict[str, Any]:
        self.count += 1
        return {"a": np.arange(1000) + self.count}


@pytest.fixture
def maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setenv("MTL_OPS_CACHE", str(tmp_path / "kept"))
    return Maker(tmp_path)


def _file(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "things.npz"


def test_made_once(maker: Maker, tmp_path: Path) -> None:
    first, again = maker(), maker()
    assert maker.count == 1
    assert first.keys() == again.keys() == {"a"}
    np.testing.assert_array_equal(first["a"], again["a"])
    assert maker.said == []
    assert [path.name for path in _file(tmp_path).parent.iterdir()] == ["things.npz"]


def test_made_again_for_another_file_or_reader(maker: Maker) -> None:
    maker()
    maker(version=2)
    assert maker.count == 2
    maker.source.write_text("1,2,3\n")
    maker(version=2)
    assert maker.count == 3
    os.utime(maker.source, (1, 1))
    assert maker(version=2)["a"][0] == 4


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_half_written_one_is_noticed(maker: Maker, tmp_path: Path, keep: float) -> None:
    maker()
    data = _file(tmp_path).read_bytes()
    _file(tmp_path).write_bytes(data[: int(keep * len(data))])
    assert maker()["a"][0] == 2
    assert len(maker.said) == 1
    assert "things.npz is broken or half-written; it is made again." in maker.said[0]
    assert maker()["a"][0] == 2


def test_a_bit_that_fell_over_is_noticed(maker: Maker, tmp_path: Path) -> None:
    maker()
    data = bytearray(_file(tmp_path).read_bytes())
    data[1000] ^= 1
    _file(tmp_path).write_bytes(data)
    assert maker()["a"][0] == 2
    assert "broken" in maker.said[0]
    table = data.rindex(
        b"PK\x01\x02"
    )  # the archive's table of contents: version, flags, compression
    for place in (table + 6, table + 8, table + 10):
        broken = bytearray(data)
        broken[place] ^= 0xFF
        _file(tmp_path).write_bytes(broken)
        maker()
    np.save(_file(tmp_path).open("wb"), np.arange(3))  # an array, and no archive
    maker()
    assert maker.count == 6


def test_nothing_is_left_of_what_failed(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    assert maker()["a"][0] == 1
    assert "cannot be written (No space left on device); nothing is kept." in maker.said[0]
    assert list(_file(tmp_path).parent.iterdir()) == []


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTL_OPS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/mtl-ops")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "mtl-ops"
    monkeypatch.setenv(
        "MTL_OPS_CACHE", "~/data"
    )  # as an environment file has it, which no shell has read
    assert cache.cache_folder() == Path.home() / "data"


def test_nothing_is_kept_for_a_user_without_a_home(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that runs as a number that is in no table of users."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MTL_OPS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", nowhere)
    assert [maker()["a"][0], maker()["a"][0]] == [1, 2]
    assert "set MTL_OPS_CACHE" in maker.said[0]

"""Small files of each format, mutated: they are read, or refused in one sentence with their name."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from .formats import FORMATS, read_or_refused


@pytest.fixture(params=FORMATS)
def spoiled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[bytes], bool]]:
    """A valid file, and a function that overwrites it and says whether it was read."""
    kind = FORMATS[request.param]
    path = kind.write(tmp_path)
    kind.read(path)

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        return read_or_refused(path, kind.read)

    return path, check


def test_truncated_at_any_byte(spoiled: tuple[Path, Callable[[bytes], bool]]) -> None:
    path, check = spoiled
    data = path.read_bytes()
    step = max(1, len(data) // 60)
    ends = [*range(0, min(len(data), 24)), *range(24, len(data), step)]
    assert sum(not check(data[:end]) for end in ends) >= len(ends) // 2
    check(data + b"\0")
    check(data + data)


def test_single_bits_flipped(spoiled: tuple[Path, Callable[[bytes], bool]]) -> None:
    path, check = spoiled
    data = path.read_bytes()
    source = random.Random(0)
    places = [source.randrange(8 * len(data)) for _ in range(60)]
    # Most formats say in their first bytes how much follows.
    places += [source.randrange(8 * min(48, len(data))) for _ in range(60)]
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        check(bytes(changed))


def test_fields_set_to_extremes(spoiled: tuple[Path, Callable[[bytes], bool]]) -> None:
    path, check = spoiled
    data = path.read_bytes()
    for field in (b"\0" * 4, b"\xff" * 4, b"\x7f" + b"\xff" * 3, b"\xff" * 3 + b"\x7f", b"9999"):
        for place in range(0, min(len(data) - 4, 48), 2):
            check(data[:place] + field + data[place + 4 :])


def test_other_things_of_the_same_name(spoiled: tuple[Path, Callable[[bytes], bool]]) -> None:
    _, check = spoiled
    for data in (b"", b"\0" * 4096, b"\xff" * 4096, b"PK\x03\x04" + b"\0" * 60, b"a" * 200_000):
        assert not check(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_regular_file(kind: str, tmp_path: Path) -> None:
    """A folder, a link to nowhere, and a pipe that nobody writes to."""
    form = FORMATS[kind]
    path = form.write(tmp_path)
    path.unlink()
    path.mkdir()
    assert not read_or_refused(path, form.read)
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    assert not read_or_refused(path, form.read)
    path.unlink()
    os.mkfifo(path)
    assert not read_or_refused(path, form.read)

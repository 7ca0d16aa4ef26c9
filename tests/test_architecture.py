"""What is written for those who work on the code: the picture is that of the imports, and every name exists."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.parent.name != "methods"  # written when the site is built
    ),
]
FOLDERS = "mtl_ops|csrc|tests|benchmarks|docs|examples"
SVG = "{http://www.w3.org/2000/svg}"

if not (ROOT / "docs").is_dir():
    pytest.skip("the pages are those of a source tree", allow_module_level=True)


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_that_of_the_imports(rooms: ModuleType) -> None:
    drawn = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert drawn == rooms.picture(ROOT / "mtl_ops"), "python docs/rooms.py draws it again"


def test_the_picture_has_every_room_and_no_two_in_one_place(rooms: ModuleType) -> None:
    folders = {path.parent.name for path in (ROOT / "mtl_ops").glob("*/__init__.py")}
    files = {path.stem for path in (ROOT / "mtl_ops").glob("*.py")} - {"__init__"}
    assert set(rooms.ROOMS) == folders | files | {"csrc"}
    picture = ElementTree.fromstring(rooms.picture(ROOT / "mtl_ops"))
    boxes = [[float(box.get(at, "nan")) for at in "xy"] for box in picture.iter(f"{SVG}rect")][1:]
    assert len(boxes) == len(rooms.ROOMS)
    for number, (x, y) in enumerate(boxes):
        for u, v in boxes[:number]:
            assert y != v or abs(x - u) > rooms.WIDTH


def test_arrows_point_downwards_and_those_that_are_implied_are_left_out(rooms: ModuleType) -> None:
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert rooms.drawn(chain) == {"a": ["b"], "b": ["c"], "c": []}
    arrows = rooms.arrows(ROOT / "mtl_ops")
    rows = {room: row for room, (_, row) in rooms.places(arrows).items()}
    assert all(rows[room] < rows[other] for room in arrows for other in arrows[room])
    assert "gradients" in arrows["step"]
    assert "gradients" not in rooms.drawn(arrows)["step"]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str) -> None:
    """Links are checked with the pages' code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{FOLDERS})/[\w./]*)`", text)
    assert named or page not in ("CONTRIBUTING.md", "docs/architecture.md")
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_room_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = [*(ROOT / "mtl_ops").iterdir(), *(ROOT / "csrc").iterdir()]
    parts = [p for p in parts if (p.is_dir() and p.name[0] != "_") or p.suffix in (".py", ".h")]
    names = [
        path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")
        for path in parts
        if path.name != "__init__.py"
    ]
    assert "mtl_ops/optim/" in names
    assert "csrc/solvers/" in names
    assert [name for name in names if f"`{name}`" not in text] == []


def test_short_names_of_files_are_those_of_the_room_before() -> None:
    """In a table `batched.py` stands for a file of a folder that the same line names."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for line in text.splitlines():
        folders = {
            (ROOT / name) if (ROOT / name).is_dir() else (ROOT / name).parent
            for name in re.findall(rf"`((?:{FOLDERS})/[\w./]*)`", line)
        }
        for name in re.findall(r"`(\w+\.py)`", line):
            if not any((folder / name).exists() for folder in folders):
                missing.append((name, line[:40]))
    assert missing == []

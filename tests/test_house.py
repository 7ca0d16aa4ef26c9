"""The rules that the layout of the package keeps: rooms, arrows that point one way, and short signatures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from imports import Imports

import mtl_ops

ROOT = Path(mtl_ops.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAKEFILE = Path(__file__).parents[1] / "Makefile"

#: Functions that hand a user's options on, and so have as many parameters as there are options.
SIGNATURES = {
    "optim/optimizer.py": {"__init__"},
    "demo/command.py": {"train"},
    "ops/coordinates.py": {"merge_graddrop_"},  # the operator's own schema
    "reference/elementwise.py": {"merge_graddrop_"},
    "reference/losses.py": {"weigh_famo"},
}
LIMIT = 8


@pytest.fixture(scope="module")
def imports() -> Imports:
    return Imports(ROOT)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach each other (Tarjan 1972, by following paths)."""
    reach = {node: set(after) for node, after in arrows.items()}
    for middle in arrows:
        for node in arrows:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    found = {
        frozenset(b for b in arrows if b in reach[a] and a in reach[b])
        for a in arrows
        if a in reach[a]
    }
    return sorted(sorted(circle) for circle in found)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path.relative_to(ROOT).as_posix(), node


def test_no_module_is_part_of_a_circle(imports: Imports) -> None:
    assert len(imports.arrows) > 100
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert circles(imports.arrows) == []


def test_no_room_is_part_of_a_circle(imports: Imports) -> None:
    rooms = imports.rooms()
    assert "merging" in rooms["step"]
    assert circles(rooms) == []


def test_few_files_lie_outside_the_rooms() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_signatures_are_short() -> None:
    long = []
    for path, node in functions():
        args = node.args
        count = len(args.posonlyargs) + len(args.args) + len(args.kwonlyargs)
        count += (args.vararg is not None) + (args.kwarg is not None)
        count -= bool(args.args) and args.args[0].arg in ("self", "cls")
        if count > LIMIT and node.name not in SIGNATURES.get(path, ()):
            long.append(f"{path}: {node.name} takes {count}")
    assert long == []


def test_names_explain_themselves() -> None:
    unclear = {"cheap", "joint", "engine", "pieces", "own_group"}
    assert unclear.isdisjoint(path.stem for path in FILES)
    defined: dict[str, list[str]] = {"Problem": [], "Layout": [], "Memory": []}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name in defined:
                defined[node.name].append(path.relative_to(ROOT).as_posix())
    assert all(len(places) <= 1 for places in defined.values()), defined


@pytest.mark.skipif(not MAKEFILE.exists(), reason="needs the source tree")
def test_the_short_loop_has_tests_of_every_room() -> None:
    """But not of what has to be compiled first."""
    listed = re.search(r"^QUICK := ((?:.*\\\n)*.*)", MAKEFILE.read_text(), re.MULTILINE)
    assert listed
    folders = {path.parent.name for path in MAKEFILE.parent.glob("tests/*/test_*.py")}
    assert len(folders) > 10
    for folder in folders - {"cpp", "cuda"}:
        assert f"tests/{folder}/test_" in listed[1], folder

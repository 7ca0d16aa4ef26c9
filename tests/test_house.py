"""The rules that the layout of the package keeps: rooms, arrows that point one way, and short signatures."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mtl_ops

ROOT = Path(mtl_ops.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Functions that hand a user's options on, and so have as many parameters as there are options.
SIGNATURES = {
    "optim/optimizer.py": {"__init__"},
    "demo/command.py": {"train"},
    "ops/coordinates.py": {"merge_graddrop_"},  # the operator's own schema
    "reference/elementwise.py": {"merge_graddrop_"},
}
LIMIT = 8


def module_of(path: Path) -> str:
    parts = ("mtl_ops", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(module: str) -> set[str]:
    """The package's modules that one imports, wherever in the file, for types or at run time."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{above}.{base}" if base else above
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in MODULES else base)
    return {name for name in found if name in MODULES} - {module}


ARROWS = {module: imports_of(module) for module in MODULES}


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


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (ROOT / parts[-1]).is_dir() else module


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path.relative_to(ROOT).as_posix(), node


def test_no_module_is_part_of_a_circle() -> None:
    assert len(ARROWS) > 100
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert circles(ARROWS) == []


def test_no_room_is_part_of_a_circle() -> None:
    rooms: dict[str, set[str]] = {room(module): set() for module in MODULES if module != "mtl_ops"}
    for module, imported in ARROWS.items():
        if module != "mtl_ops":
            rooms[room(module)] |= {room(name) for name in imported} - {room(module), "mtl_ops"}
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

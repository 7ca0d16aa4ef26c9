"""The tests are collected, and the benchmarks run, where only torch, numpy, pytest and pytest-benchmark are.

So it is on the machines that lend a GPU: one import that fails there, and pytest runs no test at all.
Read off the files: what is imported at the top of each, and of what that imports in turn, is
installed everywhere, or comes after ``pytest.importorskip``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

#: mpmath comes with torch.
EVERYWHERE = frozenset(
    {*sys.stdlib_module_names, "torch", "mpmath", "numpy", "pytest", "setuptools"}
)
#: Where the names of modules begin; tests find their helpers without a package.
PLACES = (ROOT, TESTS)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, and cannot fail for want of a package."""
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(one.type) for one in node.handlers if one.type)
            if "ImportError" not in caught and "ModuleNotFoundError" not in caught:
                yield from top_level(node.body)
        elif isinstance(node, ast.With):
            yield from top_level(node.body)
        else:
            yield node


def skipped_for(node: ast.stmt) -> str | None:
    """The package of a statement that is ``pytest.importorskip(...)``."""
    call = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "pytest.importorskip":
        return None
    name = call.args[0]
    assert isinstance(name, ast.Constant)
    return str(name.value).partition(".")[0]


def imported_by(node: ast.stmt, path: Path) -> list[str]:
    """The full names that an import may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        folder = path.parents[node.level - 1].relative_to(ROOT)
        base = ".".join([*folder.parts, *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


@cache
def files_of(name: str) -> tuple[Path, ...]:
    """The files of this tree that an import of this name runs; none if it is a package of others."""
    parts = name.split(".")
    stems = [
        place.joinpath(*parts[:count]) for place in PLACES for count in range(1, len(parts) + 1)
    ]
    files = [file for stem in stems for file in (stem.with_suffix(".py"), stem / "__init__.py")]
    return tuple(file for file in files if file.is_file())


@cache
def imports_of(path: Path) -> tuple[tuple[str | None, tuple[str, ...]], ...]:
    """In their order: a package without which the rest is skipped, or None, and names that are imported."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = [(skipped_for(node), tuple(imported_by(node, path))) for node in top_level(body)]
    return tuple(one for one in found if one != (None, ()))


def missing(path: Path) -> set[str]:
    """``file imports package`` for whatever an import of this file may want in vain."""
    found: set[str] = set()
    seen: set[Path] = set()

    def visit(file: Path, given: frozenset[str]) -> None:
        seen.add(file)
        for package, names in imports_of(file):
            if package is not None:
                given |= {package}
            for name in names:
                files, top = files_of(name), name.partition(".")[0]
                for other in files:
                    if other not in seen:
                        visit(other, given)
                if not files and top not in given and not (ROOT / top).is_dir():
                    found.add(f"{file.name} imports {name}")

    visit(path, EVERYWHERE)
    return found


FILES = [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py"), *ROOT.glob("benchmarks/*.py")]


def test_nothing_needs_a_package_that_only_some_machines_have() -> None:
    assert FILES
    assert sorted(set().union(*(missing(path) for path in FILES))) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import scipy.optimize", True),
        ("from scipy.optimize import nnls", True),
        ("if 1:\n    import scipy", True),
        ("import pytest\npytest.importorskip('scipy')\nimport scipy", False),
        ("import pytest\npytest.importorskip('rich')\nimport scipy", True),
        ("try:\n    import scipy\nexcept ImportError:\n    scipy = None", False),
        ("def f():\n    import scipy", False),
        ("from mtl_ops.demo.plots import draw", True),
    ],
)
def test_an_import_is_seen(text: str, found: bool, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert bool(missing(path)) == found

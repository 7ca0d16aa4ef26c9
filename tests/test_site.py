"""What a program writes into the documentation: from one place each, and as it is committed."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

import mtl_ops
import mtl_ops.cli
import mtl_ops.data
import mtl_ops.models

pytest.importorskip("docs.generate", reason="the pages are those of a source tree")
pytest.importorskip("contourpy")

from docs.generate import __main__ as tables_of_pages
from docs.generate import fields, method_pages, tables, versions
from docs.generate.methods import GROUPS, ROWS, group_of

ROOT = Path(__file__).resolve().parents[1]


# ---- methods ------------------------------------------------------------------------------------


def test_every_method_has_its_facts() -> None:
    assert sorted(row.name for row in ROWS) == mtl_ops.methods.available()
    for row in ROWS:
        assert row.needs, row.name
        assert row.cost, row.name
        assert group_of(row) in GROUPS, row.name


def test_what_a_method_needs_is_what_its_class_says() -> None:
    for row in ROWS:
        needs = getattr(mtl_ops.methods._registry._classes[row.name], "needs", None)
        if isinstance(needs, property):  # that of another method
            continue
        if group_of(row) == "Coordinates":
            assert needs == "coordinates", row.name
        if group_of(row) == "Losses":
            assert needs == "losses", row.name
        if row.needs.startswith(("G", "gradients", "second batch")):
            assert needs == "gram", row.name


@pytest.mark.parametrize(("name", "marker", "content"), tables_of_pages.FILLED)
def test_tables_of_methods_are_those_of_the_facts(
    name: str, marker: str, content: tables_of_pages.Content
) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert tables.fill(text, marker, content()) == text, "make pages writes it again"
    for method in mtl_ops.methods.available():
        assert f"\n| `{method}` |" in text, method


def test_a_page_without_markers_is_refused() -> None:
    filled = tables.fill("a\n<!-- x -->\nold\n<!-- /x -->\nb\n", "x", "new")
    assert filled == "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="should have the markers"):
        tables.fill("a\n", "x", "new")


def test_a_method_s_page_has_all_that_is_known_of_it(tmp_path: Path) -> None:
    (row,) = [row for row in ROWS if row.name == "nash_mtl"]
    text = method_pages.page(row)
    assert text.startswith("# nash_mtl\n")
    for part in (row.paper, row.holds, row.others, ".. autoclass:: NashMTL", "<svg"):
        assert part in text
    (tmp_path / "gone.md").write_text("a method that was")
    method_pages.write_pages(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == mtl_ops.methods.available()


def test_pictures_show_conflict_where_there_is_some() -> None:
    found = {name: fields.field(name) for name in ("sum", "upgrad", "famo", "constant")}
    assert found["famo"] is None  # remembers
    assert found["constant"] is None  # needs arguments
    assert found["sum"] is not None
    assert found["upgrad"] is not None
    assert found["sum"][1] > 0.1
    assert found["upgrad"][1] == 0.0
    for drawn, _ in (found["sum"], found["upgrad"]):
        kinds = [path.get("class") for path in ElementTree.fromstring(drawn).iter("path")]
        assert ("foe" in kinds) is (drawn == found["sum"][0])


# ---- the reference ------------------------------------------------------------------------------


def test_everything_public_is_described() -> None:
    pages = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")
    )
    described = [
        getattr(importlib.import_module(module), name)
        for module, name in described_in(pages)
        if not module.startswith("mtl_ops.integrations")
    ]
    # those of methods are on pages of their own
    described += [mtl_ops.methods._registry._classes[row.name] for row in ROWS]
    missing = [
        f"{module.__name__}.{name}"
        for module in (mtl_ops, mtl_ops.methods, mtl_ops.models, mtl_ops.data)
        for name in module.__all__
        if (inspect.isclass(thing := getattr(module, name)) or inspect.isroutine(thing))
        and thing not in described
    ]
    assert missing == []


def described_in(pages: str) -> Iterator[tuple[str, str]]:
    """Module and name of each thing that autodoc is told to describe."""
    module = ""
    for kind, name in re.findall(r"^\.\. (\w+):: (\S+)", pages, re.MULTILINE):
        if kind == "currentmodule":
            module = name
        elif kind.startswith("auto") and kind != "automodule":
            yield module, name


# ---- the command line ---------------------------------------------------------------------------


def test_every_option_of_the_command_is_described() -> None:
    typer = pytest.importorskip("typer")
    from docs.generate.command_line import commands

    text = commands()
    group = typer.main.get_command(mtl_ops.cli.make_app())
    assert len(group.commands) >= 2
    for command, found in group.commands.items():
        section = text.split(f"## mtl-ops {command}\n")[1].split("\n## ")[0]
        for parameter in found.params:
            assert parameter.name == "help" or f"`{parameter.opts[0]}`" in section
    assert "[dim]" not in text
    assert "[/]" not in text


# ---- versions -----------------------------------------------------------------------------------


def test_versions_stand_newest_first(tmp_path: Path) -> None:
    for folder in ("v0.9", "latest", "v0.10", "assets", "v1.0-draft"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "index.html").touch()
    (tmp_path / "v0.8").mkdir()  # empty
    assert versions.write(tmp_path) == ["latest", "v0.10", "v0.9"]
    assert json.loads((tmp_path / "versions.json").read_text()) == ["latest", "v0.10", "v0.9"]
    assert 'url=latest/"' in (tmp_path / "index.html").read_text()
    with pytest.raises(ValueError, match="Found none"):
        versions.write(tmp_path / "v0.8")

"""The README and every page of the documentation: their code runs, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import mtl_ops

ROOT = Path(__file__).resolve().parents[1]
#: Made when the site is built.
BUILT = ROOT / "docs" / "reference" / "methods"

if not (ROOT / "docs").is_dir():
    pytest.skip("the pages are those of a source tree", allow_module_level=True)

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + [
    path for path in sorted((ROOT / "docs").rglob("*.md")) if BUILT not in path.parents
]
FENCE = re.compile(r"^```[^\n]*\n.*?^```[ \t]*$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python[ \t]*([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and text of each block, without those that say ```` ```python skip: REASON ````."""
    text = page.read_text(encoding="utf-8")
    found = [
        (text.count("\n", 0, block.start(2)) + 1, block.group(1).strip(), block.group(2))
        for block in BLOCK.finditer(text)
    ]
    for line, marks, _ in found:
        assert re.fullmatch(r"|skip: \S.*", marks), f"{name(page)}, line {line}: {marks!r}"
    return [(line, code) for line, marks, code in found if not marks]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's blocks, one after the other: what one defines, the next may use."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    before = set(mtl_ops.methods.available())
    namespace = {"__name__": "page"}
    try:
        for line, code in blocks(page):
            # Padded, so that a traceback names the page's line.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
    finally:
        for added in set(mtl_ops.methods.available()) - before:
            mtl_ops.methods.unregister(added)


def test_there_are_blocks() -> None:
    assert any("optimizer.backward(" in code for _, code in blocks(ROOT / "README.md"))
    assert sum(len(blocks(page)) for page in PAGES) > 5


# ---- links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them, and MyST."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+[ \t]+(.*?)[ \t]*$", text, re.MULTILINE)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in LINK.findall(text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if BUILT in target.parents:
            broken += [link] if target.stem not in mtl_ops.methods.available() else []
        elif not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `merge_` of T×T, by hand?\n```sh\n# no heading\n```\n## [Two](b.md) words\n"
    )
    assert anchors(page) == {"a-merge_-of-tt-by-hand", "two-words"}


# ---- the README ---------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 200
    assert len(text.encode()) <= 12_000

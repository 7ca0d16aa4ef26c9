"""The code in the README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import mtl_ops

README = Path(__file__).resolve().parents[1] / "README.md"

BLOCK = re.compile(r"^```python[ \t]*([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[int, str]]:
    """Line number and text of each block, without those that say ```` ```python skip ````."""
    text = README.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)) + 1, found.group(2))
        for found in BLOCK.finditer(text)
        if found.group(1).strip() != "skip"
    ]


if not README.exists():
    pytest.skip("the README is not installed", allow_module_level=True)


@pytest.mark.parametrize(("line", "code"), blocks(), ids=lambda value: str(value)[:4])
def test_block(line: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    before = set(mtl_ops.methods.available())
    try:
        # Padded, so that a traceback names the README's line.
        exec(compile("\n" * (line - 1) + code, str(README), "exec"), {"__name__": "readme"})
    finally:
        for name in set(mtl_ops.methods.available()) - before:
            mtl_ops.methods.unregister(name)


def test_every_method_has_a_row() -> None:
    section = README.read_text(encoding="utf-8").split("## Methods")[1].split("\n## ")[0]
    heads = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for head in heads for name in re.findall(r"`(\w+)`", head)]
    assert sorted(named) == mtl_ops.methods.available()


def test_there_are_blocks() -> None:
    assert len(blocks()) >= 3
    assert any("optimizer.backward(" in code for _, code in blocks())

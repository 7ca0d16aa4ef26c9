"""What the documentation quotes as an error or a warning is what the code says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Pages whose ```text blocks are messages, one a block; "…" stands for what differs.
PAGES = (
    "docs/troubleshooting.md",
    "docs/faq.md",
    "docs/start/installation.md",
    "docs/guides/compile.md",
    "docs/guides/several-processes.md",
)

_BLOCK = re.compile(r"^```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)

#: Of a quote, what has to be the code's own words: of less a template of nothing but gaps would fit.
_WORDS = 0.36

if not (ROOT / "docs").exists():
    pytest.skip("the documentation is not installed", allow_module_level=True)


def quotes() -> list[tuple[str, str]]:
    return [
        (page, quote)
        for page in PAGES
        for quote in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    ]


def sources() -> list[Path]:
    return [ROOT / "setup.py", *sorted((ROOT / "mtl_ops").rglob("*.py"))]


def texts(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Names that stand for a text."""
    return {
        target.id: node.value.value
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def templates() -> Iterator[list[str]]:
    """The literal pieces of every string, with what is written in between left out."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources()]
    everywhere = {name: text for tree in trees for name, text in texts(tree.body).items()}
    for tree in trees:
        named = {**everywhere, **texts(ast.walk(tree))}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield [node.value]
            elif isinstance(node, ast.JoinedStr):
                yield pieces_of(node, named)
                yield pieces_of(node, {})  # a name may stand for several texts


def pieces_of(node: ast.JoinedStr, named: dict[str, str]) -> list[str]:
    pieces = [""]
    for part in node.values:
        inner = part.value  # type: ignore[attr-defined]
        if isinstance(part, ast.Constant):
            pieces[-1] += str(inner)
        elif isinstance(inner, ast.Name) and inner.id in named:
            pieces[-1] += named[inner.id]
        else:
            pieces.append("")
    return pieces


@pytest.fixture(scope="module")
def said() -> list[tuple[str, ...]]:
    return [pieces for pieces in set(map(tuple, templates())) if sum(map(len, pieces)) > 20]


def is_said(quote: str, said: list[tuple[str, ...]]) -> bool:
    return any(fits(quote, pieces) for pieces in said)


def fits(quote: str, pieces: tuple[str, ...]) -> bool:
    """Whether the quote is the pieces in their order, with anything in between."""
    if sum(map(len, pieces)) < _WORDS * len(quote) or not quote.startswith(pieces[0]):
        return False
    place = len(pieces[0])
    for piece in pieces[1:]:
        found = quote.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return quote.endswith(pieces[-1]) and (len(pieces) > 1 or quote == pieces[0])


def refused(quote: str) -> bool:
    """Whether it is a sentence of the table of options, which another test holds against the code."""
    sentence = quote.removeprefix("Parameter ").split(". Found")[0]
    return f"- {sentence}." in (ROOT / "docs/options.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "quote"), quotes(), ids=lambda text: text[-40:])
def test_message_is_in_the_code(page: str, quote: str, said: list[tuple[str, ...]]) -> None:
    assert "\n" not in quote
    assert is_said(quote, said) or refused(quote), f"{page} quotes what is not in the code"


@pytest.mark.parametrize(
    "altered",
    [
        "Parameter `losses` should hold scalars. Got loss 'b' of shape (8, 1).",
        "Parameter `clip_value` should be None with `gram_on`, whose steps are others. Found …",
        "Parameter `anything` should be whatever. Found nothing.",
    ],
)
def test_what_the_code_does_not_say_is_found(altered: str, said: list[tuple[str, ...]]) -> None:
    assert not is_said(altered, said)
    assert not refused(altered)


def test_there_are_messages() -> None:
    assert {page for page, _ in quotes()} >= {
        "docs/troubleshooting.md",
        "docs/start/installation.md",
    }
    assert len(quotes()) > 40

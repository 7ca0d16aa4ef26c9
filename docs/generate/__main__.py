"""Writes the tables of methods that are committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .tables import fill, overview, short

ROOT = Path(__file__).resolve().parents[2]
Content = Callable[[], str]
#: Page, marker and content.
FILLED: tuple[tuple[str, str, Content], ...] = (
    ("README.md", "methods", short),
    ("docs/reference/methods.md", "methods", overview),
)


def main() -> None:
    """Fills in what stands between the markers."""
    for name, marker, content in FILLED:
        page = ROOT / name
        page.write_text(fill(page.read_text(encoding="utf-8"), marker, content()), encoding="utf-8")


if __name__ == "__main__":
    main()

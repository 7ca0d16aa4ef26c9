"""Findings as a table: with colours where rich is installed, plain text otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

from .finding import Finding, Verdict

__all__ = ["make_printer"]

COLOURS = {
    Verdict.RIGHT: "green",
    Verdict.WRONG: "bold red",
    Verdict.MEASURED: "cyan",
    Verdict.LEFT_OUT: "yellow",
}
WIDTHS = (30, 5, 11)


def make_printer(coloured: bool) -> Callable[[Finding], None]:
    """What prints a finding as soon as it is there, under a head that is printed now."""
    _print_plain(("check", "on", "", "found"))
    if coloured and find_spec("rich") is not None:
        return _print_coloured
    return lambda finding: _print_plain(_cells(finding))


def _cells(finding: Finding) -> tuple[str, str, str, str]:
    return finding.what, finding.device, finding.verdict.value, finding.detail


def _line(cells: Iterable[str]) -> str:
    *short, last = cells
    padded = [cell.ljust(width) for cell, width in zip(short, WIDTHS, strict=True)]
    return "  ".join([*padded, last])


def _print_plain(cells: Iterable[str]) -> None:
    print(_line(cells), flush=True)


def _print_coloured(finding: Finding) -> None:
    from rich.console import Console
    from rich.text import Text

    line = Text(_line(_cells(finding)), overflow="ignore", no_wrap=True)
    line.stylize(COLOURS[finding.verdict], *_place_of_verdict())
    Console().print(line, soft_wrap=True)


def _place_of_verdict() -> tuple[int, int]:
    begin = WIDTHS[0] + WIDTHS[1] + 4
    return begin, begin + WIDTHS[2]

"""The documentation's pictures of what was measured: bars, as SVG, with nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Bar", "chart"]

#: Pixels.
WIDTH, LABEL, ROW, THICK, TOP, SIDE = 860, 330, 30, 18, 74, 24
COLOURS = {"sum": "#8a8f98", "ours": "#1f6fb2", "other": "#e08a2c"}
MEANING = {"sum": "PyTorch alone", "ours": "mtl_ops", "other": "others"}


@dataclass(frozen=True)
class Bar:
    """One measured figure.

    Attributes:
        label: What was measured.
        value: Times what a plain sum takes.
        kind: ``"sum"``, ``"ours"`` or ``"other"``.
        figure: The value in its unit, as text.
    """

    label: str
    value: float
    kind: str
    figure: str


def chart(title: str, subtitle: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, on white so that they can be read on any page."""
    height = TOP + ROW * len(bars) + SIDE
    longest = max(bar.value for bar in bars)
    scale = (WIDTH - LABEL - 150) / longest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fff"/>',
        _text(SIDE, 28, title, size=17, weight=600),
        _text(SIDE, 50, subtitle, size=13, colour="#57606a"),
        *_legend({bar.kind for bar in bars}),
    ]
    for place, bar in enumerate(bars):
        top = TOP + ROW * place
        middle = top + THICK / 2 + 5
        length = max(1.0, bar.value * scale)
        parts += [
            _text(LABEL - 10, middle, bar.label, anchor="end"),
            f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{THICK}" rx="2" '
            f'fill="{COLOURS[bar.kind]}"/>',
            _text(
                LABEL + length + 8,
                middle,
                f"{bar.value:.3g}×{bar.figure and ', ' + bar.figure}",
                colour="#24292f",
            ),
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(kinds: set[str]) -> list[str]:
    parts, x = [], float(WIDTH - SIDE)
    for kind in reversed([kind for kind in COLOURS if kind in kinds]):
        x -= 8 * len(MEANING[kind])
        parts += [
            _text(x, 28, MEANING[kind], size=12, colour="#57606a"),
            f'<rect x="{x - 16:.0f}" y="18" width="11" height="11" rx="2" fill="{COLOURS[kind]}"/>',
        ]
        x -= 32
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 14,
    colour: str = "#24292f",
    anchor: str = "start",
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )

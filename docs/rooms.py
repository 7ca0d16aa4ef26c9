"""Draws the rooms of the package and their arrows: ``python docs/rooms.py`` writes ``docs/rooms.svg``.

The arrows are read off the imports. A row is as high as the longest way down from it, so every arrow points
downwards; one that another way of arrows implies is not drawn. Only what a room is for, and its column, are said here.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from imports import Imports  # noqa: E402

#: What a room is for, and in which column it stands. One that is missing here is drawn at the right, without a word.
ROOMS: dict[str, tuple[str, float]] = {
    "cli": ("the command mtl-ops", 0),
    "check": ("this build on this machine", 4),
    "plots": ("methods in two dimensions", 0),
    "demo": ("trains the examples", 0),
    "reproduce": ("published tables, again", 1),
    "examples": ("models on their data", 0),
    "models": ("architectures", 0),
    "data": ("what they train on", 0),
    "functional": ("backward and merge", 1),
    "compare": ("the cost of each kind of step", 2),
    "optim": ("the optimizer, its options", 2),
    "integrations": ("Lightning, Transformers", 3),
    "step": ("one way of taking a step a file", 1.5),
    "distributed": ("rows and .grad of processes", 2.6),
    "cross": ("inner products of two sets", 1),
    "merging": ("measure, weigh, merge", 2),
    "gradients": ("losses to rows of J", 1),
    "methods": ("G and losses to weights", 2),
    "ops": ("wrappers and fakes", 1.5),
    "reference": ("definitions, in float64", 1),
    "_build": ("what was compiled", 2),
    "csrc": ("the kernels, C++ and CUDA", 3),
}
#: The way of a gradient.
WAY = {"optim", "step", "gradients", "merging", "methods", "ops", "csrc", "distributed"}

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 208, 52, 228, 92, 16


def arrows(package: Path) -> dict[str, set[str]]:
    """What each room imports, by short names; the operators call what csrc registers."""
    rooms = {
        room.rpartition(".")[2]: {other.rpartition(".")[2] for other in others}
        for room, others in Imports(package).rooms().items()
    }
    return {**rooms, "ops": rooms["ops"] | {"csrc"}, "csrc": set()}


def below(rooms: dict[str, set[str]], room: str) -> set[str]:
    """All that can be reached from a room."""
    found: set[str] = set()
    after = [*rooms[room]]
    while after:
        one = after.pop()
        if one not in found:
            found.add(one)
            after += rooms[one]
    return found


def drawn(rooms: dict[str, set[str]]) -> dict[str, list[str]]:
    """The arrows that no other way implies."""
    return {
        room: sorted(o for o in others if not any(o in below(rooms, x) for x in others - {o}))
        for room, others in rooms.items()
    }


def places(rooms: dict[str, set[str]]) -> dict[str, tuple[float, int]]:
    """Column and row, counted from above."""
    height: dict[str, int] = {}

    def high(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((high(other) for other in rooms[room]), default=-1)
        return height[room]

    top = max(high(room) for room in rooms)
    new = sorted(rooms.keys() - ROOMS.keys())
    columns = {room: ROOMS[room][1] if room in ROOMS else 4.0 + new.index(room) for room in rooms}
    return {room: (columns[room], top - height[room]) for room in rooms}


def picture(package: Path) -> str:
    """The SVG."""
    rooms = arrows(package)
    at = {
        room: (MARGIN + ACROSS * column, MARGIN + DOWN * row)
        for room, (column, row) in places(rooms).items()
    }
    width = max(x for x, _ in at.values()) + WIDTH + MARGIN
    height = max(y for _, y in at.values()) + HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="DejaVu Sans, Verdana, sans-serif" text-anchor="middle">',
        "<title>The rooms of mtl_ops, and which imports which</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
    ]
    for room, others in sorted(drawn(rooms).items()):
        for other in others:
            lines.append(_arrow(at[room], at[other], dashed=other == "csrc"))
    for room in sorted(rooms):
        lines += _box(room, at[room], sorted(rooms[room]), package)
    return "\n".join([*lines, "</svg>", ""])


def _arrow(start: tuple[float, float], end: tuple[float, float], dashed: bool) -> str:
    x, y = start[0] + WIDTH / 2, start[1] + HEIGHT
    u, v = end[0] + WIDTH / 2, end[1] - 2
    bend = min(40.0, (v - y) / 2)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    path = f"M{x:g} {y:g}C{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v:g}"
    return f'<path d="{path}" fill="none" stroke="#444" stroke-width="1.4"{dash} marker-end="url(#head)"/>'


def _box(room: str, at: tuple[float, float], imported: list[str], package: Path) -> list[str]:
    x, y = at
    fill = "#dcebfa" if room in WAY else "#f1f1ee"
    is_folder = room == "csrc" or (package / room).is_dir()
    name = f"{room}/" if is_folder else f"{room}.py"
    says = ROOMS[room][0] if room in ROOMS else ""
    return [
        f"<g><title>{name} imports {', '.join(imported) or 'no other room'}</title>",
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="#444"/>',
        f'<text x="{x + WIDTH / 2:g}" y="{y + 22:g}" font-size="16" font-weight="bold">{escape(name)}</text>',
        f'<text x="{x + WIDTH / 2:g}" y="{y + 41:g}" font-size="12.5">{escape(says)}</text></g>',
    ]


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(picture(HERE.parent / "mtl_ops"), encoding="utf-8")

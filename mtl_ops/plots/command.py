"""The command ``mtl-ops plot``: its options, and the table it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .. import methods
from ..data import TOY_STARTS, toy_losses
from ..demo.config import ALL
from ..demo.options import default, for_results, one_thread, read_names, refuse
from ..demo.writer import FolderError
from .cone import merged_at_angles
from .front import PREFERRING, draw_front, share_of_front, sweep
from .merged import REFUSALS
from .pictures import AT_FRONT, draw_cone, draw_field, draw_toy, save
from .toy import FIRST_SCALE, Array, descend, distance_to_front

__all__ = ["plot"]

PICTURES = ("toy", "field", "cone", "front")
DEFAULT_PICTURES = PICTURES[:3]
DEFAULT_METHODS = ("sum", "pcgrad", "mgda", "cagrad", "upgrad", "nash_mtl", "imtl_g", "famo")
DEFAULT_FOLDER = Path("runs/plots")
#: Columns of text that goes to a file or a pipe, where nobody says how wide it may be.
PLAIN_WIDTH = 100


def plot(
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help=f"Which pictures: {', '.join(PICTURES)}. [dim]{default(DEFAULT_PICTURES)}[/]",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME,...",
            help=f"Methods, or '{ALL}' for every one that needs no more than two gradients and "
            f"losses. [dim]{default(DEFAULT_METHODS)}[/]",
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of Adam, from each start.", show_default=True)
    ] = 2500,
    lr: Annotated[
        float, typer.Option(metavar="X", help="Of Adam. Published: 1e-3, with 50000 steps.")
    ] = 2e-2,
    first_scale: Annotated[
        float,
        typer.Option(
            metavar="X", help="Factor of the first loss: 0.1 in Nash-MTL and FAMO, 1 in CAGrad."
        ),
    ] = FIRST_SCALE,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the pictures are written.")
    ] = DEFAULT_FOLDER,
) -> None:
    """Draw what the methods do with two tasks in two dimensions.

    Descents on the toy problem of CAGrad, Nash-MTL and FAMO, the direction field of each method on
    it, and the merged vector of two gradients in their dual cone. Only if asked for: the points of
    the Pareto front that methods with a preference reach.
    """
    pictures = read_names("--only", only, PICTURES) or DEFAULT_PICTURES
    names = read_names("--method", method, [ALL, *methods.available()])
    for option, value in (("--lr", lr), ("--first-scale", first_scale)):
        if not 0 < value < float("inf"):
            refuse(option, f"{value} is not a positive number.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse("--out", f"Folder {out} cannot be made: {error.strerror}.")
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if "front" in pictures:
            show = partial(track, description="Pareto front", console=messages, transient=True)
            _front(names, steps, lr, first_scale, show, out, messages)
            pictures = tuple(picture for picture in pictures if picture != "front")
        chosen, left_out = _select(names) if pictures else ([], {})
        paths = {}
        if "toy" in pictures:
            show = partial(track, description="toy problem", console=messages, transient=True)
            paths = descend(chosen, steps, lr, first_scale, show)
            _print_table(paths, first_scale)
        for name, reason in left_out.items():
            messages.print(f"[dim]Left out: {name} ({reason.split('. ')[0]}).[/]")
        for picture in pictures:
            _write(_figure(picture, chosen, paths, first_scale), out / f"{picture}.png", messages)


def _select(names: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The methods that can be drawn; those of ``all`` that cannot, with the reason."""
    everything = names is not None and ALL in names
    chosen: list[str] = []
    left_out: dict[str, str] = {}
    for name in methods.available() if everything else names or DEFAULT_METHODS:
        try:
            merged_at_angles(name)
        except REFUSALS as error:
            if not everything:
                refuse("--method", str(error))
            left_out[name] = str(error)
        else:
            chosen.append(name)
    return chosen, left_out


def _front(
    names: Sequence[str] | None,
    steps: int,
    lr: float,
    first_scale: float,
    show: Callable[[range], Iterable[int]],
    out: Path,
    messages: Console,
) -> None:
    """The picture of the methods named that have a preference, and a table of their hypervolumes."""
    chosen = [name for name in PREFERRING if names is None or ALL in names or name in names]
    if not chosen:
        refuse("--method", f"The front is of methods with a preference: {', '.join(PREFERRING)}.")
    reached = sweep(chosen, steps, lr, first_scale, show)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("hypervolume, of the front's", justify="right")
    for name, points in reached.items():
        table.add_row(name, f"{share_of_front(points, first_scale):.3f}")
    for_results(PLAIN_WIDTH).print(table)
    _write(draw_front(reached, first_scale), out / "front.png", messages)


def _figure(
    picture: str, names: Sequence[str], paths: Mapping[str, Array], first_scale: float
) -> Figure:
    if picture == "toy":
        return draw_toy(paths, first_scale)
    return draw_field(names, first_scale) if picture == "field" else draw_cone(names)


def _write(figure: Figure, path: Path, messages: Console) -> None:
    try:
        save(figure, path)
    except FolderError as error:
        refuse("--out", str(error))
    messages.print(f" {path}")


def _print_table(paths: Mapping[str, Array], first_scale: float) -> None:
    console = for_results(PLAIN_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for head in ("start", "end", "to the front", "first loss", "second loss"):
        table.add_column(head, justify="right")
    for name, curves in paths.items():
        for cells in _rows(curves[:, -1], first_scale):
            table.add_row(name, *cells)
        table.add_section()
    console.print(table)
    console.print(f" Nearer to the Pareto front than {AT_FRONT}: on it, in green.", style="dim")


def _rows(ends: Array, first_scale: float) -> Iterable[tuple[str, ...]]:
    """Start, end, distance and both losses of each descent."""
    losses = toy_losses(torch.from_numpy(ends), first_scale).tolist()
    for start, end, distance, values in zip(
        TOY_STARTS, ends, distance_to_front(ends), losses, strict=True
    ):
        far = f"{distance:.3f}"
        yield (
            "({:.1f}, {:.1f})".format(*start),
            "({:.2f}, {:.2f})".format(*end),
            f"[green]{far}[/]" if distance <= AT_FRONT else far,
            *(f"{value:.3f}" for value in values),
        )

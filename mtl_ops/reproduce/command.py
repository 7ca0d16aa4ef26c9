"""The command ``mtl-ops reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.folders import DataError
from ..demo.given import read_choice
from ..demo.options import default, one_thread, refuse
from ..demo.writer import FolderError, write_file
from .collecting import collect
from .registry import make, names
from .study import BUDGETS
from .workers import WorkerError

__all__ = ["reproduce"]

DEFAULT_FOLDER = Path("runs/reproduce")


def reproduce(
    study: Annotated[
        str, typer.Argument(metavar="NAME", help=f"Which table: {', '.join(names())}.")
    ],
    budget: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="quick, within an hour on two cores, or published, the paper's setting. "
            f"[dim]{default([BUDGETS[0]])}[/]",
        ),
    ] = BUDGETS[0],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where results are kept (JSON), each as soon as it is there; the page lies beside it, with "
            f".md. [dim]{default([f'{DEFAULT_FOLDER}/<name>-<budget>.json'])}[/]",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="N",
            help="Begin nothing new after this time; the same command goes on later. "
            "[dim]Default: no limit[/]",
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="How many trainings at a time, each with one thread, where the study allows it. "
            f"[dim]{default([1])}[/]",
        ),
    ] = 1,
) -> None:
    """Measure what a paper has published, with its data, and print both in one table."""
    chosen = read_choice("NAME", study, names())
    kind = read_choice("--budget", budget, BUDGETS)
    assert chosen is not None
    assert kind is not None
    problem = make(chosen)
    path = out or DEFAULT_FOLDER / f"{chosen}-{kind}.json"
    try:
        with one_thread():
            results = collect(problem, kind, path, _tell, minutes, processes)
        page = problem.page(results)
        write_file(path.with_suffix(".md"), page.encode())
    except (DataError, ImportError) as error:
        refuse("NAME", str(error))
    except FolderError as error:
        refuse("--out", str(error))
    except WorkerError as error:
        refuse("--processes", str(error))
    except KeyboardInterrupt:
        typer.echo(
            f"Interrupted; what is done is in {path}, and the same command goes on.", err=True
        )
        raise typer.Exit(130) from None
    typer.echo(page, nl=False)


def _tell(text: str) -> None:
    typer.echo(text, err=True)

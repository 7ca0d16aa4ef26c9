"""The command ``mtl-ops train``: its options, and what it says."""

from __future__ import annotations

import errno
import io
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from .. import examples
from ..compare.table import render as render_steps
from ..data import Split
from ..data.folders import DataError
from ..examples.base import AUTO, EMBEDDED, SIZES
from ..optim.turns import ORDERS
from .checkpoint import save_json
from .compared import check_given, try_steps
from .config import ALL, DEFAULT_METHODS, Config, Run
from .experiment import load_data, run_all, run_timing
from .files import DEFAULT_FOLDER, RunFolder, find_folder, open_folder, read_config
from .given import (
    ALTERNATING,
    read_choice,
    read_device,
    read_groups,
    read_methods,
    read_seeds,
    read_tasks,
)
from .options import default, for_results, one_thread, refuse, split
from .plots import draw
from .precision import FULL, PRECISIONS, unfit
from .progress import progress
from .pruned import prune_all, render_pruned
from .selection import REFUSALS, select
from .summary import Row, summarize
from .table import render
from .timing import Timing
from .trainer import History
from .writer import FolderError, write_file

__all__ = ["train"]

#: Columns of text that goes to a file or a pipe, where nobody says how wide it may be.
PLAIN_WIDTH = 120
PROTOCOLS = ("published",)


def train(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--compare",
            "-m",
            metavar="NAME,...",
            help=f"Methods, with arguments as in 'cagrad:c=0.2', or '{ALL}' for every one that "
            f"needs none. [dim]{default(DEFAULT_METHODS)}[/]",
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What to train: {', '.join(examples.names())}. "
            f"[dim]{default([Config.example])}[/]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Real data for the example, in the field's format; a folder that holds none says "
            f"which. Or {AUTO}, {EMBEDDED}, or data of a package: {', '.join(examples.packaged())}. "
            f"[dim]{default(['what comes with the package'])}[/]",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(SIZES)}: tiny takes seconds. [dim]{default([Config.size])}[/]",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="published: data, length, batch, learning rate and network of the paper, if the example "
            "follows one; what else is named here stays. [dim]Default: what ends in minutes[/]",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            metavar="NAME,...",
            help=f"Two or more of the example's. [dim]{default(['all of them'])}[/]",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Another model, if the example has it: {', '.join(examples.architectures())}. "
            f"[dim]{default(['as the example does'])}[/]",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="A+B,C",
            help="Tasks that are merged together, group by group in turn, or "
            f"'{ALTERNATING}'. [dim]{default(['all together'])}[/]",
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Of the groups' turns: {', '.join(ORDERS)}. [dim]{default([Config.order])}[/]",
        ),
    ] = None,
    closing_joint: Annotated[
        bool | None,
        typer.Option(
            "--closing-joint", metavar="", help="After the turns, one for all tasks together."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Length of a training. "
            f"[dim]{default([f'{Config.epochs}, or as the example says'])}[/]",
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            "--seed",
            "--seeds",
            metavar="N,...",
            help="Each decides the split, the initial weights and the order of the data. "
            f"[dim]{default(Config.seeds)}[/]",
        ),
    ] = None,
    prune: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="In the end set that share of the shared weights to 0, the smallest, and say what "
            "it costs each task. [dim]Default: nothing[/]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where everything is written. "
            f"[dim]{default([f'{DEFAULT_FOLDER}/<example>, or the next number that is free'])}[/]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Where to train. [dim]{default([Config.device])}[/]"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Of forwards in training: {', '.join(PRECISIONS)}; float16 is for cuda, with a scaler. "
            f"[dim]{default([Config.precision])}[/]",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            metavar="",
            help="Go on with the experiment in --out, or with the latest one. Methods and seeds "
            "may change; what is trained already is not trained again.",
        ),
    ] = False,
    compare_steps: Annotated[
        bool,
        typer.Option(
            "--compare-steps",
            metavar="",
            help="Train nothing: try each kind of step on one batch, and print what it costs.",
        ),
    ] = False,
) -> None:
    """Train an example with every method, and compare it with single tasks and a plain sum.

    Tasks share one model; a table, pictures and TensorBoard logs say how far.
    """
    given = {
        "example": read_choice("--example", example, examples.names()),
        "data": None if data is None else str(data),
        "size": read_choice("--size", size, SIZES),
        "methods": read_methods(method),
        "tasks": tasks,
        "architecture": read_choice("--architecture", architecture, examples.architectures()),
        "groups": groups,
        "order": read_choice("--order", order, ORDERS),
        "closing_joint": closing_joint or None,
        "epochs": epochs,
        "seeds": read_seeds(seed),
        "device": read_device(device),
        "precision": read_choice("--precision", precision, PRECISIONS),
    }
    given = {name: value for name, value in given.items() if value is not None}
    if read_choice("--protocol", protocol, PROTOCOLS) is not None:
        given = {**_published(given, resume=resume), **given}
    if compare_steps:
        _print_steps(given, check_given({**given, "resume": resume, "out": out, "prune": prune}))
        return
    if prune is not None and not 0.0 < prune < 1.0:
        refuse("--prune", f"{prune} is not between 0 and 1.")
    with _folder_errors():
        folder = find_folder(out, resume=resume, example=example)
        _check_problem(given, resume=resume)
        config = read_config(folder, given, resume=resume)
        with _data_errors():
            _check_stored(folder, config)
            first = load_data(config, config.seeds[0])
        try:
            chosen, left_out = select(config, first)
        except REFUSALS as error:
            refuse("--method", str(error))
        with open_folder(folder, config), _interrupts(folder), one_thread():
            _run(folder, config, chosen, left_out, first)
            if prune is not None:
                _print_pruned(folder, config, chosen, first, prune)


def _print_steps(given: dict[str, Any], method: str) -> None:
    """What each kind of step costs on the example."""
    _check_problem(given, resume=False)
    with _data_errors(), one_thread():
        config = Config.of(given)
        split = load_data(config, config.seeds[0])
        messages = Console(stderr=True, highlight=False, soft_wrap=True)
        messages.print(
            f"[bold]mtl-ops[/] · {len(config.tasks)} tasks on {config.problem.title} · "
            f"every kind of step with {method} · {_where(config)}"
        )
        try:
            rows = try_steps(config, method, split)
        except REFUSALS as error:
            refuse("--method", str(error))
    for_results(PLAIN_WIDTH).print(render_steps(rows), soft_wrap=True)


def _published(given: Mapping[str, Any], *, resume: bool) -> Mapping[str, Any]:
    """Options of the example's published protocol."""
    if resume:
        refuse("--protocol", "of a resumed experiment is the one it was started with.")
    with _data_errors():
        example = examples.make(given.get("example", Config.example))
    if not example.published:
        refuse("--protocol", f"example '{example.name}' follows no paper's protocol.")
    return example.published


def _print_pruned(
    folder: RunFolder, config: Config, chosen: Sequence[str], first: Split, amount: float
) -> None:
    """What pruning costs; an example that shares nothing to prune says so."""
    try:
        found = prune_all(config, chosen, first, folder, amount)
    except ValueError as error:
        refuse("--prune", str(error))
    console = for_results(PLAIN_WIDTH)
    console.print(render_pruned(config, found, amount))


def _run(
    folder: RunFolder,
    config: Config,
    chosen: Sequence[str],
    left_out: Mapping[str, str],
    first: Split,
) -> None:
    """The experiment, and all that is shown and written of it."""
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    messages.print(_headline(config, chosen))
    messages.print(f"[dim]Everything goes to {folder.root}[/]")
    with progress(messages) as listener:
        histories = run_all(config, chosen, first, folder, listener)
        timing = run_timing(config, chosen, first, folder, listener)
    rows = summarize(config, chosen, histories, timing)
    save_json(folder.results, _results(config, rows, histories, timing, left_out))
    pictures = draw(folder, config, chosen, histories, timing)
    _print_table(folder, config, rows, left_out)
    messages.print(_footer(folder, pictures))


def _print_table(
    folder: RunFolder, config: Config, rows: Sequence[Row], left_out: Mapping[str, str]
) -> None:
    text = io.StringIO()
    plain = Console(file=text, width=PLAIN_WIDTH, no_color=True, force_terminal=False)
    plain.print(render(config, rows, left_out, plain))
    write_file(folder.table, text.getvalue().encode())
    console = for_results(PLAIN_WIDTH)
    console.print(render(config, rows, left_out, console))


def _headline(config: Config, chosen: Sequence[str]) -> str:
    return (
        f"[bold]mtl-ops[/] · {len(config.tasks)} tasks on {config.problem.title} · "
        f"{_count(len(chosen), 'method')} × {_count(len(config.seeds), 'seed')} × "
        f"{_count(config.epochs, 'epoch')} · {_where(config)}"
    )


def _where(config: Config) -> str:
    threads = f" ({_count(torch.get_num_threads(), 'thread')})" if config.device == "cpu" else ""
    precision = "" if config.precision == FULL else f", {config.precision}"
    return f"{config.device}{threads}{precision}"


def _footer(folder: RunFolder, pictures: Sequence[str]) -> str:
    files = ", ".join(str(folder.picture(name)) for name in pictures)
    return (
        f" Pictures     {files}\n"
        f" Figures      {folder.table}, {folder.results}\n"
        f" TensorBoard  tensorboard --logdir {shlex.quote(str(folder.tensorboard))}"
    )


def _results(
    config: Config,
    rows: Sequence[Row],
    histories: Mapping[Run, History],
    timing: Timing,
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """All figures, and what they were made with."""
    return {
        "config": config.to_json(),
        "rows": [asdict(row) for row in rows],
        "timing": timing,
        "histories": {run.name: history for run, history in histories.items()},
        "left_out": dict(left_out),
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
        },
    }


@contextmanager
def _interrupts(folder: RunFolder) -> Iterator[None]:
    """Ctrl-C is no failure: every epoch that was finished is kept."""
    try:
        yield
    except KeyboardInterrupt:
        again = f"mtl-ops train --resume --out {shlex.quote(str(folder.root))}"
        typer.echo(f"Interrupted. Go on with: {again}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _folder_errors() -> Iterator[None]:
    """What the folder or the system refuses is one sentence."""
    try:
        yield
    except FolderError as error:
        refuse("--out", str(error))
    except OSError as error:
        # A reader of standard output that has gone is no error; the command line knows what to do.
        if error.errno == errno.EPIPE:
            raise
        what = f"File {error.filename}" if error.filename else "Standard output, or another file,"
        refuse("--out", f"{what} cannot be used: {error.strerror or error}.")


@contextmanager
def _data_errors() -> Iterator[None]:
    """What is wrong with the data, or missing to make them, is one sentence."""
    try:
        yield
    except (DataError, ImportError) as error:
        refuse("--data" if isinstance(error, DataError) else "--example", str(error))
    except OSError as error:
        refuse("--data", f"{error.filename} cannot be read: {error.strerror or error}.")


def _check_stored(folder: RunFolder, config: Config) -> None:
    """Whether the example has what the options name, which another program may have altered."""
    try:
        example = config.problem
    except DataError:
        raise
    except ValueError as error:
        raise FolderError(f"File {folder.config} does not fit its example: {error}") from error
    named = [*config.tasks, *(task for group in config.groups or () for task in group)]
    unknown = [task for task in named if task not in example.tasks]
    if config.architecture not in (None, *example.architectures):
        unknown.append(str(config.architecture))
    if unknown:
        raise FolderError(
            f"File {folder.config} names '{unknown[0]}', which example '{example.name}' has not; "
            "choose another folder."
        )


def _check_problem(given: dict[str, Any], *, resume: bool) -> None:
    """Whether the example has these tasks; of a resumed one its folder knows."""
    example = None
    if "example" in given or not resume:
        with _data_errors():
            try:
                example = examples.make(given.get("example", Config.example), given.get("data"))
            except ValueError as error:
                refuse("--data", str(error))
    if "tasks" in given:
        choices = list(example.tasks) if example else split(given["tasks"])
        given["tasks"] = read_tasks(given["tasks"], choices)
    chosen = given.get("architecture")
    if chosen is not None and example is not None and chosen not in example.architectures:
        others = ", ".join(example.architectures) or "only its own"
        refuse("--architecture", f"example '{example.name}' has {others}.")
    if "groups" in given:
        names = given.get("tasks") or (example.tasks if example else None)
        if names is None:
            refuse("--groups", "of a resumed experiment are those it was started with.")
        given["groups"] = read_groups(given["groups"], tuple(names))
    elif not resume:
        for name in ("order", "closing_joint"):
            if name in given:
                refuse(f"--{name.replace('_', '-')}", "is for --groups, which take turns.")
    if "precision" in given and not resume:
        device, turns = given.get("device", Config.device), "groups" in given
        reason = unfit(given["precision"], device, turns=turns)
        if reason is not None:
            refuse("--precision", reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

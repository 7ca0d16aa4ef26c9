"""The command line ``mtl-ops``.

The package itself needs nothing but torch and numpy, and so does ``mtl-ops check``; what the other
commands need comes with the extra ``demo``, and whoever has not installed it is told so.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from ._build import __version__
from .check.command import main as check

if TYPE_CHECKING:
    import typer

__all__ = ["main", "make_app"]

#: What the extra ``demo`` brings, by the names it is imported under.
EXTRA = ("matplotlib", "rich", "sklearn", "tensorboard", "typer")


def main() -> None:
    """Run the command that the arguments name; ``check`` needs nothing that is not installed."""
    if sys.argv[1:2] == ["check"]:
        sys.exit(check(sys.argv[2:]))
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The command line needs {', '.join(missing)}; "
            'install with: pip install "mtl-ops[demo]" (`mtl-ops check` works without)'
        )
    make_app()()


def make_app() -> typer.Typer:
    """All commands; a group from the first one on, so that a second does not rename it."""
    import typer

    from .demo.command import train
    from .plots.command import plot
    from .reproduce.command import reproduce

    app = typer.Typer(
        name="mtl-ops",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def group(
        version: bool = typer.Option(False, "--version", help="Say what is installed.", metavar=""),
    ) -> None:
        """Merge the gradients of many tasks."""
        if version:
            typer.echo(f"mtl-ops {__version__}, torch {torch.__version__}")
            raise typer.Exit

    app.command()(train)
    app.command()(plot)
    app.command()(reproduce)

    @app.command("check", add_help_option=False, context_settings={"ignore_unknown_options": True})
    def check_build(arguments: list[str] = typer.Argument(None)) -> None:  # noqa: B008
        """Check this build on this machine: every kernel, whole steps, bandwidth."""
        raise typer.Exit(check(arguments or []))

    return app


if __name__ == "__main__":
    main()

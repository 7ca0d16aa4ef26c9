"""The page of the command line, from the commands themselves."""

from __future__ import annotations

import re
from typing import Any

import typer

from mtl_ops.cli import make_app

from .tables import table

__all__ = ["commands"]


def commands() -> str:
    """Each command with its help and a table of its options, in Markdown."""
    group: Any = typer.main.get_command(make_app())
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    rows = [
        (
            ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts]),
            f"`{parameter.metavar}`" if parameter.metavar else "",
            _plain(getattr(parameter, "help", None) or ""),
        )
        for parameter in command.params
        if parameter.name != "help"
    ]
    return (
        f"## mtl-ops {name}\n\n{_plain(command.help or '')}\n\n"
        f"{table(('option', 'takes', 'what it does'), rows)}"
    )


def _plain(text: str) -> str:
    """Without the marks of colour and style; an empty bracket closes one."""
    text = re.sub(r"\[(/?(?:dim|bold|italic|cyan|green|red|yellow)?|/)\]", "", text)
    return text.replace("\\[", "[").replace("|", "\\|").replace("<", "&lt;").strip()

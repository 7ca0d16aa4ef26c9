"""When Sphinx calls what is in this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils.nodes import Node, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from .command_line import commands
from .integrations import integrations
from .method_pages import write_pages
from .methods import ROWS
from .tables import fill

__all__ = ["setup"]

#: A page at the top of the repository that is a page of the site, too.
TOP = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _read)
    app.connect("missing-reference", _public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx) -> None:
    write_pages(Path(app.srcdir) / "reference" / "methods")


def _read(app: Sphinx, page: str, content: list[str]) -> None:
    """What is right where a repository is shown, is made right for the site."""
    text = content[0]
    up = "../" * (page.count("/") + 1)
    down = "../" * page.count("/")
    for file, here in TOP.items():
        text = text.replace(f"]({up}{file}", f"]({down}{here}")
    if page == "reference/methods":
        for row in ROWS:
            text = text.replace(f"| `{row.name}` |", f"| [`{row.name}`](methods/{row.name}.md) |")
    if page == "reference/cli":
        text = fill(text, "commands", commands())
    if page == "reference/integrations":
        text = fill(text, "integrations", integrations())
    # A block that no test runs is shown like any other.
    content[0] = re.sub(r"^```python skip\b.*$", "```python", text, flags=re.MULTILINE)


def _public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: TextElement
) -> Node | None:
    """Where a thing is described under its public name, but called by the file it is defined in."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    target = node["reftarget"]
    called = target.rpartition(".")[2]
    found = [name for name in domain.objects if name.rpartition(".")[2] == called]
    if len(found) != 1 or not target.startswith(("mtl_ops.", called)):
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, text)

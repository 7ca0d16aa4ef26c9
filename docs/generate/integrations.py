"""The page of what is there for other packages, which need not be installed to describe it."""

from __future__ import annotations

import ast
from pathlib import Path

import mtl_ops

__all__ = ["integrations"]

FOLDER = Path(mtl_ops.__file__).parent / "integrations"


def integrations() -> str:
    """Each module's title, and what it alone exports, in Markdown."""
    modules = [path for path in sorted(FOLDER.glob("*.py")) if path.name[0] != "_"]
    return "\n\n".join(filter(None, map(_module, modules)))


def _module(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    kinds = {
        node.name: "autoclass" if isinstance(node, ast.ClassDef) else "autofunction"
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    (exported,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    own = [name for name in exported if name in kinds and name not in mtl_ops.__all__]
    if not own:
        return ""
    described = "\n\n".join(f".. {kinds[name]}:: {name}" for name in own)
    return (
        f"## {title.rstrip('.')}\n\n```{{eval-rst}}\n{rest.strip()}\n\n"
        f".. currentmodule:: mtl_ops.integrations.{path.stem}\n\n{described}\n```"
    )

"""Which module of a package imports which, read off its files; of the standard library alone, nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["Imports"]


class Imports:
    """The modules of a package, its rooms, and the arrows between them.

    A room is a folder of the package, or a file that lies directly in it.

    Args:
        root: The package's folder.

    Attributes:
        modules: The file of each module, by name.
        arrows: What each module imports of the package, wherever in the file, for types or at run time.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = {self._name(path): path for path in sorted(root.rglob("*.py"))}
        self.arrows = {module: self._imports_of(module) for module in self.modules}

    def room(self, module: str) -> str:
        """The name of a folder, or the whole name of a module outside of all."""
        parts = module.split(".")
        return parts[1] if len(parts) > 2 or (self.root / parts[-1]).is_dir() else module

    def rooms(self) -> dict[str, set[str]]:
        """What the modules of each room import of others; the package's own ``__init__`` is no room."""
        package = self.root.name
        found: dict[str, set[str]] = {}
        for module, imported in self.arrows.items():
            if module != package:
                room = self.room(module)
                others = {self.room(name) for name in imported} - {room, package}
                found.setdefault(room, set()).update(others)
        return found

    def _name(self, path: Path) -> str:
        parts = (self.root.name, *path.relative_to(self.root).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports_of(self, module: str) -> set[str]:
        path = self.modules[module]
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = package.split(".")
                    above = ".".join(parts[: len(parts) - node.level + 1])
                    base = f"{above}.{base}" if base else above
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    found.add(inner if inner in self.modules else base)
        return {name for name in found if name in self.modules} - {module}

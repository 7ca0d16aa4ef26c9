"""A page for each method, from its docstring, the facts about it and its picture."""

from __future__ import annotations

import inspect
from pathlib import Path

from mtl_ops import methods
from mtl_ops.methods._other_names import OTHER_NAMES

from .fields import field
from .methods import ROWS, Row
from .tables import table

__all__ = ["page", "write_pages"]

#: What the short words of the tables stand for.
NEEDS = {
    "G": "the Gram matrix of the task gradients, so one backward for each task",
    "losses": "the losses, so one backward of their weighted sum",
    "coordinates": "every coordinate of the task gradients, so one backward for each task",
    "gradients": "the task gradients, which it remembers; one backward for each task",
    "second batch": "the inner products with the gradients of a second batch (`mtl_ops.cross_gram`)",
    "losses, validation": "the losses, and the inner products with the gradients of validation losses "
    "(`mtl_ops.cross_gram`)",
    "G, losses": "the Gram matrix of the task gradients, so one backward for each task, and the losses",
    "losses, again after the step": "the losses, before the step and after it; one backward of their weighted sum",
}
MEMORY = {
    "": "nothing",
    "T": "T numbers",
    "T×T": "T×T numbers",
    "learned": "learned parameters, a parameter group of the inner optimizer",
    "gradients": "as much as T gradients",
}


def write_pages(folder: Path) -> None:
    """Writes those that have changed, and removes those of methods that are gone."""
    folder.mkdir(exist_ok=True)
    wanted = {f"{row.name}.md": page(row) for row in ROWS}
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def page(row: Row) -> str:
    """The text of a method's page, in Markdown."""
    cls = methods._registry._classes[row.name]
    own = [
        name
        for name, member in vars(cls).items()
        if name[0] != "_" and inspect.isroutine(member) and member.__doc__
    ]
    described = [
        f".. autoclass:: {cls.__name__}",
        *([f"   :members: {', '.join(own)}"] if own else []),
    ]
    facts = [
        ("paper", row.paper or "–"),
        ("needs", NEEDS.get(row.needs, row.needs)),
        ("keeps between steps", MEMORY.get(row.memory, row.memory)),
        ("cost of the weights", row.cost),
        ("what holds", row.holds or "–"),
        ("where others differ", row.others or "–"),
    ]
    elsewhere = [
        other for other, what in OTHER_NAMES.items() if what.startswith(f"use `{row.name}`")
    ]
    if elsewhere:
        names = ", ".join(f"`{other}`" for other in elsewhere)
        facts.append(("other names", f"{names}: [what differs](../../names.md)"))
    parts = [
        f"# {row.name}",
        table(("", ""), facts),
        "\n".join(["```{eval-rst}", ".. currentmodule:: mtl_ops.methods", "", *described, "```"]),
        _picture(row.name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(name: str) -> str:
    drawn = field(name)
    if drawn is None:
        return ""
    picture, share = drawn
    return f"""## On the toy problem

```{{raw}} html
{picture}
```

Which way a step goes, on the problem with two tasks and two parameters of CAGrad, Nash-MTL and FAMO. Blue arrows
raise no loss. Orange ones raise one: {100 * share:.0f}% of these points. The bold line is the Pareto front, the thin
ones are contours of the mean loss."""

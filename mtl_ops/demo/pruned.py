"""What pruning of the shared weights costs each task, after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from ..data import Split
from ..models import Pruned, prune_shared
from .checkpoint import load_checkpoint
from .config import SINGLE, Config
from .files import Layout
from .trainer import Trainer

__all__ = ["prune_all", "render_pruned"]


def prune_all(
    config: Config, methods: Sequence[str], first: Split, layout: Layout, amount: float
) -> dict[str, list[Pruned]]:
    """Prunes the trained models of the first seed; their checkpoints stay as they are.

    Returns:
        For the plain sum and each method the tasks' metrics before and after.
    """
    found = {}
    for run in config.runs(methods):
        if run.seed != config.seeds[0] or run.method == SINGLE:
            continue
        state = load_checkpoint(layout.checkpoint(run), config.device)
        assert state is not None  # it has just been trained
        trainer = Trainer(config, run, first)
        trainer.model.load_state_dict(state["model"])
        batch = next(trainer.batches())
        found[run.label] = prune_shared(trainer.model, amount, batch, evaluated(trainer))
    return found


def evaluated(trainer: Trainer) -> Callable[[object], dict[str, float]]:
    """The metrics of the trainer's model."""
    return lambda model: trainer.evaluate()


def render_pruned(config: Config, found: dict[str, list[Pruned]], amount: float) -> Table:
    """A table of metrics before and after."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(f"without {amount:.0%} of the shared weights", no_wrap=True)
    for task in config.tasks:
        table.add_column(f"{task}\n{config.goals[task].metric}", justify="right")
    for label, rows in found.items():
        cells = {row.task: f"{row.before:.3f} → {row.after:.3f}" for row in rows}
        table.add_row(label, *(cells[task] for task in config.tasks))
    return table

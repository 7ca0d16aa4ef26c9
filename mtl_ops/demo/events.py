"""The TensorBoard log of one run."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from .config import Run
from .trainer import History

__all__ = ["Events"]


class Events:
    """Scalars of each epoch under ``<folder>/<label>/seed<k>``.

    Args:
        start: Epochs already done; what an interrupted run had logged beyond them is purged.
    """

    def __init__(self, folder: Path, run: Run, start: int) -> None:
        self.run = run
        self.writer = SummaryWriter(
            str(folder / run.label / f"seed{run.seed}"), purge_step=start + 1
        )

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()

    def log(self, history: History) -> None:
        """Write the latest epoch of the history."""
        epoch = len(history["loss"])
        pairs = [f"{first}/{second}" for first, second in combinations(self.run.tasks, 2)]
        names = {
            "loss": self.run.tasks,
            "metric": self.run.tasks,
            "weight": self.run.tasks,
            "cosine": pairs,
        }
        for group, labels in names.items():
            if not history.get(group):
                continue
            for label, value in zip(labels, history[group][-1], strict=True):
                self.writer.add_scalar(f"{group}/{label}", value, epoch)
        self.writer.flush()

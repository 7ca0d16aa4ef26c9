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

    A run that goes on writes its log anew, from its history: TensorBoard sorts the files of two
    sessions by second and process number, and drops what it then takes for expired.

    Args:
        folder: Where the logs of all runs are.
        run: The run.
        history: Its epochs so far.
    """

    def __init__(self, folder: Path, run: Run, history: History) -> None:
        self.run = run
        own = folder / run.folder / f"seed{run.seed}"
        for old in own.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(own))
        for epoch in range(1, len(history["loss"]) + 1):
            self._write(history, epoch)

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
        self._write(history, len(history["loss"]))
        self.writer.flush()

    def _write(self, history: History, epoch: int) -> None:
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
            for label, value in zip(labels, history[group][epoch - 1], strict=True):
                self.writer.add_scalar(f"{group}/{label}", value, epoch)

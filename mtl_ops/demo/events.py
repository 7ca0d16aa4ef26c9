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

    :param start: Epochs already done; what an interrupted run had logged beyond them is purged.
    """

    def __init__(self, folder: Path, run: Run, start: int) -> None:
        self.run = run
        self.writer = SummaryWriter(  # type: ignore[no-untyped-call]
            str(folder / run.label / f"seed{run.seed}"), purge_step=start if start else None
        )

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()  # type: ignore[no-untyped-call]

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
                self.writer.add_scalar(f"{group}/{label}", value, epoch)  # type: ignore[no-untyped-call]
        self.writer.flush()  # type: ignore[no-untyped-call]

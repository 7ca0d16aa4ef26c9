"""The TensorBoard log of one run."""

from __future__ import annotations

import io
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from .config import Run
from .trainer import History
from .writer import FolderError, write_file

__all__ = ["Events"]


class Events:
    """Scalars of each epoch under ``<folder>/<label>/seed<k>``, a file for each epoch.

    The files are named by their epochs, so that TensorBoard reads them in order. A run that goes on
    writes what its history holds anew, as one file: an epoch that was logged but not saved is
    trained and logged again.

    Args:
        folder: Where the logs of all runs are.
        run: The run.
        history: Its epochs so far.

    Raises:
        FolderError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, run: Run, history: History) -> None:
        self.run = run
        self.folder = folder / run.folder / f"seed{run.seed}"
        epochs = range(1, len(history["loss"]) + 1)
        self._write(history, epochs)
        try:
            for old in self.folder.glob("events.out.tfevents.*"):
                if not epochs or old != self._path(epochs):
                    old.unlink()
        except OSError as error:
            raise FolderError(
                f"Folder {self.folder} cannot be cleared: {error.strerror or error}."
            ) from error

    def log(self, history: History) -> None:
        """Write the latest epoch of the history."""
        self._write(history, range(len(history["loss"]), len(history["loss"]) + 1))

    def _write(self, history: History, epochs: range) -> None:
        if not epochs:
            return
        # In memory first: TensorBoard's own writer is a thread, whose errors nobody catches.
        buffer = io.BytesIO()
        records = RecordWriter(buffer)
        now = time.time()
        records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for epoch in epochs:
            for tag, value in self._scalars(history, epoch):
                event = Event(wall_time=now, step=epoch, summary=_summary(tag, value))
                records.write(event.SerializeToString())
        write_file(self._path(epochs), buffer.getbuffer())

    def _path(self, epochs: range) -> Path:
        return self.folder / f"events.out.tfevents.{epochs[-1]:010d}"

    def _scalars(self, history: History, epoch: int) -> list[tuple[str, float]]:
        pairs = [f"{first}/{second}" for first, second in combinations(self.run.tasks, 2)]
        names = {
            "loss": self.run.tasks,
            "metric": self.run.tasks,
            "weight": self.run.tasks,
            "cosine": pairs,
        }
        return [
            (f"{group}/{label}", value)
            for group, labels in names.items()
            if history.get(group)
            for label, value in zip(labels, history[group][epoch - 1], strict=True)
        ]


def _summary(tag: str, value: float) -> Any:
    return scalar(tag, value)  # type: ignore[no-untyped-call]

"""What an example is: tasks, data, a model, and how long to train it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

from torch import Tensor, nn

from ..data import Batch, Goal, Split, Task
from ..data.packaged import Packaged
from .architectures import image_model

__all__ = ["AUTO", "DEFAULT_METHODS", "EMBEDDED", "SIZES", "Example", "Model", "Size"]

#: One or two methods of each family, a few minutes in all.
DEFAULT_METHODS = ("sum", "mean", "pcgrad", "mgda", "cagrad", "upgrad", "nash_mtl", "famo")

#: Instead of a folder: the data of a package if it is installed, or else those the example has anyway.
AUTO = "auto"
#: Instead of a folder: those the example has anyway, whatever is installed.
EMBEDDED = "embedded"
#: ``"tiny"`` takes seconds and learns little: for tests, and for trying things out; ``"published"``
#: is as much as the paper has, where the example follows one.
Size = Literal["default", "tiny", "published"]
SIZES: tuple[str, ...] = get_args(Size)


class Model(Protocol):
    """What the trainer asks of a model besides being an ``nn.Module``."""

    def losses(self, batch: Batch) -> Mapping[str, Tensor | None]:
        """For each task a 0-d tensor, or ``None`` if it is missing from the batch."""


class Example(ABC):
    """A multi-task problem that can be trained from the command line.

    Args:
        folder: Real data to train on instead of the embedded ones; ``None`` for the latter.

    Attributes:
        name: What ``--example`` is given.
        title: Such as "handwritten digits", for the headline.
        note: A sentence below the table that says what the metrics mean.
        formats: What ``--data FOLDER`` may hold, in words; empty if nothing.
        needs_folder: Whether it has no data of its own.
        packaged: Data that lie in other packages, by the names that ``--data`` takes.
        prefers_packaged: Whether they are taken where they are installed, if nobody says anything.
        package: Which of them are used; ``None`` if a folder, or what the example has anyway.
        overall_names: Figures of all tasks together, by default none; see :meth:`overall`.
        published: Options of the paper's protocol, for ``--protocol published``.
        architectures: Names of other models that it can be trained with, see :mod:`mtl_ops.models`.
        methods: What is trained if nobody names a method.
        epochs, batch_size, learning_rate, seeds: Defaults of a training.

    Raises:
        DataError: If the folder holds none of the formats, or a file is missing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    note: str
    formats: ClassVar[tuple[str, ...]] = ()
    needs_folder: ClassVar[bool] = False
    packaged: ClassVar[Mapping[str, Packaged]] = {}
    prefers_packaged: ClassVar[bool] = False
    published: ClassVar[Mapping[str, Any]] = {}
    overall_names: ClassVar[tuple[str, ...]] = ()
    architectures: ClassVar[tuple[str, ...]] = ()
    methods: ClassVar[tuple[str, ...]] = DEFAULT_METHODS
    epochs: ClassVar[int] = 10
    batch_size: ClassVar[int] = 64
    learning_rate: ClassVar[float] = 3e-3
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.package: str | None = None

    @classmethod
    def source(cls, data: str | None) -> str | None:
        """What ``--data`` stands for: a folder, a name of :attr:`packaged`, or "embedded".

        Args:
            data: As the user gave it; ``None`` if nothing was given.

        Returns:
            The same, but instead of "auto" what is installed; ``None`` for nothing.
        """
        if data == AUTO or (data is None and cls.prefers_packaged):
            there = (name for name, package in cls.packaged.items() if package.installed)
            return next(there, EMBEDDED)
        return data

    @property
    @abstractmethod
    def tasks(self) -> dict[str, Goal]:
        """The tasks by name, in the order of the heads."""

    @property
    def usual_tasks(self) -> tuple[str, ...]:
        """Those that are trained if nobody names any: by default all."""
        return tuple(self.tasks)

    def overall(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """Shares of all tasks together, by :attr:`overall_names`, from the tallies over the test part."""
        return {}

    @abstractmethod
    def load(self, seed: int, size: Size = "default") -> Split:
        """The train and the test part."""

    def build(
        self, tasks: Sequence[str], split: Split, architecture: str | None = None
    ) -> nn.Module:
        """:meth:`model`, or one of another of the example's :attr:`architectures`.

        Raises:
            ValueError: If the example has no such architecture.
        """
        if architecture is None:
            return self.model(tasks, split)
        if architecture not in self.architectures:
            others = ", ".join(self.architectures) or "no other than its own"
            raise ValueError(
                f"'{architecture}' is no architecture of '{self.name}', which has {others}."
            )
        goals = {task: self.tasks[task] for task in tasks}
        return self.variant(
            architecture,
            {task: goal for task, goal in goals.items() if isinstance(goal, Task)},
            split,
        )

    def variant(self, architecture: str, tasks: dict[str, Task], split: Split) -> nn.Module:
        """A model of one of :attr:`architectures`, by default one for images."""
        return image_model(architecture, tasks, split)

    @abstractmethod
    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """A model (see :class:`Model`) with heads for some of the tasks."""

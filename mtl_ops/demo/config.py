"""What a user asks for, and which trainings follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..data import DIGITS_TASKS

__all__ = ["ALL", "DEFAULT_METHODS", "PLAIN", "SINGLE", "Config", "Run"]

#: A model of its own for each task, with the bare inner optimizer: the reference for delta m.
SINGLE = "single"
#: The losses summed, one backward, the bare inner optimizer: the yardstick for the cost.
PLAIN = "plain"
#: Stands for every method there is.
ALL = "all"
#: What is trained if nobody names a method: one or two of each family, a few minutes in all.
DEFAULT_METHODS = ("sum", "mean", "pcgrad", "mgda", "cagrad", "upgrad", "nash_mtl", "famo")
#: The options that say how much is trained, and not how.
EXTENT = ("methods", "seeds")


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, and the tasks the model has heads for."""

    method: str
    seed: int
    tasks: tuple[str, ...]

    @property
    def label(self) -> str:
        """The method's name; for a single task also the task's."""
        return f"{SINGLE}-{self.tasks[0]}" if self.method == SINGLE else self.method

    @property
    def name(self) -> str:
        """A name for files, different for every run of an experiment."""
        return f"{self.label}-seed{self.seed}"


@dataclass(frozen=True)
class Config:
    """The options of an experiment.

    Those of :data:`EXTENT` may change when a folder is resumed. All the others decide the outcome
    of every single training and may not.

    Attributes:
        methods: Names, :data:`ALL` among them for every method there is, or ``None`` for those of
            :data:`DEFAULT_METHODS` that are available.
        seeds: Each decides the split, the initial weights and the order of the batches.
        tasks: Names of :data:`mtl_ops.data.DIGITS_TASKS`, in the order of the heads.
        epochs: Length of a training; the learning rate falls to zero over it.
        batch_size: Images in a step.
        learning_rate: Of AdamW, the same for all.
        device: Where models and data are.
    """

    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = tuple(DIGITS_TASKS)
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-3
    device: str = "cpu"

    def identity(self) -> dict[str, Any]:
        """The part that has to be the same for all trainings in one folder."""
        values = self.to_json()
        return {name: values[name] for name in values if name not in EXTENT}

    def to_json(self) -> dict[str, Any]:
        """As plain values: tuples become lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        """The inverse of :meth:`to_json`; a value that is not there keeps its default."""
        known = {field.name for field in fields(cls)} & set(values)
        given: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name]
            for name in known
        }
        return cls(**given)

    def runs(self, methods: Iterable[str]) -> list[Run]:
        """All trainings: for each seed the single tasks, the plain sum, then every method."""
        methods = tuple(methods)
        return [
            run
            for seed in self.seeds
            for run in (
                *(Run(SINGLE, seed, (task,)) for task in self.tasks),
                *(Run(method, seed, self.tasks) for method in (PLAIN, *methods)),
            )
        ]

"""What a user asks for, and which trainings follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..data import DIGITS_TASKS

__all__ = ["PLAIN", "SINGLE", "Config", "Run"]

#: A model of its own for each task, with the bare inner optimizer: the reference for delta m.
SINGLE = "single"
#: The losses summed, one backward, the bare inner optimizer: the yardstick for the cost.
PLAIN = "plain"


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

    ``methods`` and ``seeds`` say how much is trained, so they may change when a folder is resumed.
    All the others decide the outcome of every single training and may not.

    :param methods: Names, or ``None`` for all that are available.
    :param seeds: Each decides the split, the initial weights and the order of the batches.
    """

    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = tuple(DIGITS_TASKS)
    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 3e-3
    device: str = "cpu"

    def identity(self) -> dict[str, Any]:
        """The part that has to be the same for all trainings in one folder."""
        values = self.to_json()
        return {name: values[name] for name in values if name not in ("methods", "seeds")}

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
        return cls(
            **{
                name: tuple(values[name]) if isinstance(values[name], list) else values[name]
                for name in known
            }
        )

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

"""What a user asks for, and which trainings follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal
from urllib.parse import quote

from .. import examples
from ..data import Goal
from ..examples.base import DEFAULT_METHODS
from ..examples.digits import Digits

__all__ = ["ALL", "DEFAULT_METHODS", "PLAIN", "SINGLE", "Config", "Run"]

#: A model of its own for each task, with the bare inner optimizer: the reference for delta m.
SINGLE = "single"
#: The losses summed, one backward, the bare inner optimizer: the yardstick for the cost.
PLAIN = "plain"
#: Stands for every method there is.
ALL = "all"
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
        return f"{self.folder}-seed{self.seed}"

    @property
    def folder(self) -> str:
        """The label as a name for files and folders."""
        return quote(self.label, safe="+=,:[](){}' ")


@dataclass(frozen=True)
class Config:
    """The options of an experiment.

    Those of :data:`EXTENT` may change when a folder is resumed. All the others decide the outcome
    of every single training and may not.

    Attributes:
        methods: Names, with or without arguments (see ``spec``), :data:`ALL` among them for every
            method there is, or ``None`` for those of the example's that are available.
        seeds: Each decides the split, the initial weights and the order of the batches.
        tasks: Names of tasks of the example, in the order of the heads.
        epochs: Length of a training; the learning rate falls to zero over it.
        batch_size: Images, sentences, ... in a step.
        learning_rate: Of AdamW, the same for all.
        device: Where models and data are.
        precision: Of forwards in training, see :mod:`mtl_ops.demo.precision`; the test part is looked at in float32.
        example: What is trained, see :mod:`mtl_ops.examples`.
        data: A folder with data instead of the example's own.
        size: How much of the data is used.
        architecture: How the tasks share the model; ``None`` for the example's own.
        groups: Tasks that are merged together, group by group in turn; ``None`` for all together.
        order: Of the turns.
        closing_joint: Whether all tasks together have the last turn.
    """

    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = Digits.seeds
    tasks: tuple[str, ...] = tuple(Digits().tasks)
    epochs: int = Digits.epochs
    batch_size: int = Digits.batch_size
    learning_rate: float = Digits.learning_rate
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    example: str = Digits.name
    data: str | None = None
    size: examples.Size = "default"
    architecture: str | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    order: Literal["fixed", "random", "loss"] = "fixed"
    closing_joint: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Config:
        """Options that the user named, and the example's defaults for the rest.

        Raises:
            ValueError: If there is no such example, or its data are not there.
        """
        example = examples.make(given.get("example", cls.example), given.get("data"))
        defaults = {
            "seeds": example.seeds,
            "tasks": example.usual_tasks,
            "epochs": example.epochs,
            "batch_size": example.batch_size,
            "learning_rate": example.learning_rate,
        }
        source = example.source(given.get("data"))
        # What "auto" stood for: another package tomorrow must not change what is resumed.
        return cls(**{**defaults, **given, "data": source})

    @property
    def problem(self) -> examples.Example:
        """The example."""
        return examples.make(self.example, self.data)

    @property
    def goals(self) -> dict[str, Goal]:
        """What the tasks are judged by."""
        return self.problem.tasks

    def identity(self) -> dict[str, Any]:
        """The part that has to be the same for all trainings in one folder."""
        values = self.to_json()
        return {name: values[name] for name in values if name not in EXTENT}

    def to_json(self) -> dict[str, Any]:
        """As plain values: tuples become lists."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        """The inverse of :meth:`to_json`; a value that is not there keeps its default."""
        known = {field.name for field in fields(cls)} & set(values)
        given: dict[str, Any] = {name: _frozen(values[name]) for name in known}
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


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value

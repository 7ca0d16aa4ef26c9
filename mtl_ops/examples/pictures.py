"""Photographs from a folder: attributes of faces, and the same things in several domains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn

from ..data import Goal, Split, Task
from ..data.folders import DataError
from ..data.pictures import (
    CELEBA_COUNTS,
    CELEBA_SOURCE,
    OFFICE_SOURCE,
    celeba,
    celeba_attributes,
    office,
    office_domains,
)
from ..models import SharedBottom
from .base import Example, Size
from .layers import image_backbone, linear_heads

__all__ = ["Attributes", "Domains"]

FEATURES = 64


class Attributes(Example):
    """Forty attributes of a face, from CelebA: many tasks on one input. Name some by ``--tasks``."""

    name: ClassVar[str] = "attributes"
    title: ClassVar[str] = "faces"
    note: str = "Attributes of faces, of CelebA's own test part."
    formats: ClassVar[tuple[str, ...]] = ("CelebA",)
    needs_folder: ClassVar[bool] = True
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "mgda", "upgrad", "famo")
    epochs: ClassVar[int] = 5
    seeds: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is None:
            raise DataError(f"Example '{self.name}' needs CelebA; get it from {CELEBA_SOURCE}.")
        self.celeba = folder
        self.attributes = celeba_attributes(folder)

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return {name: Task(name, 1, "binary") for name in self.attributes}

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; the seed decides nothing, since CelebA has parts of its own."""
        return celeba(self.celeba, (64, 32) if size == "tiny" else CELEBA_COUNTS)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = {task: Task(task, 1, "binary") for task in tasks}
        return SharedBottom(
            image_backbone(split.train["input"].shape[-1], channels=3, features=FEATURES),
            *linear_heads(goals, FEATURES),
        )


class Domains(Example):
    """What a photograph shows, in the domains of Office-31 or Office-Home: a task each."""

    name: ClassVar[str] = "domains"
    title: ClassVar[str] = "photographs of several domains"
    note: str = "A task is to classify the photographs of one domain."
    formats: ClassVar[tuple[str, ...]] = ("Office-31 or Office-Home",)
    needs_folder: ClassVar[bool] = True
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "mgda", "upgrad", "famo")
    batch_size: ClassVar[int] = 32
    seeds: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is None:
            raise DataError(f"Example '{self.name}' needs photographs; get {OFFICE_SOURCE}.")
        self.photographs = folder
        self.domains = office_domains(folder)
        paths = (each for domain in self.domains.values() for each in domain.iterdir())
        self.classes = len({path.name for path in paths if path.is_dir()})

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(self._goals())

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`."""
        return office(self.photographs, seed, 4 if size == "tiny" else None)[0]

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        goals = self._goals()
        side = split.train[tasks[0]]["input"].shape[-1]
        return SharedBottom(
            image_backbone(side, channels=3, features=FEATURES),
            *linear_heads({task: goals[task] for task in tasks}, FEATURES),
        )

    def _goals(self) -> dict[str, Task]:
        return {name: Task(name, self.classes, "classes") for name in self.domains}

"""Income, education and marriage of 299,285 people: the data that MMoE was published with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..data import Goal, Split
from ..data.census import CENSUS_TASKS, UCI_FILES, UCI_SOURCE, census
from ..data.folders import DataError, held
from ..data.packaged import CENSUS_INCOME, Packaged
from ..models import CGC, PLE, Embedded, MMoE, MultiTaskModel, RecordEmbedding, SharedBottom
from .base import Example, Size

__all__ = ["CENSUS_MODELS", "Census", "census_model"]

#: Numbers that a hidden layer and an expert make.
WIDTH, EXPERT = 16, 16
EXPERTS = 8


class Census(Example):
    """Who earns more than 50,000 dollars, has a degree, has never married.

    The MMoE paper has two groups of tasks, of which the first is the default here: income and
    never-married. ``--tasks education,never-married`` is the second.
    """

    name: ClassVar[str] = "census"
    title: ClassVar[str] = "Census-Income (KDD)"
    note: str = (
        "AUC on half of the test file; the other half is for validation. Data: Census-Income (KDD), "
        "UCI."
    )
    formats: ClassVar[tuple[str, ...]] = ("Census-Income (KDD) of UCI",)
    packaged: ClassVar[Mapping[str, Packaged]] = {"census-income": CENSUS_INCOME}
    published: ClassVar[Mapping[str, Any]] = {"size": "published"}
    architectures: ClassVar[tuple[str, ...]] = ("shared", "mmoe", "cgc", "ple")
    methods: ClassVar[tuple[str, ...]] = ("upgrad", "cagrad", "famo", "uncertainty")
    epochs: ClassVar[int] = 4
    batch_size: ClassVar[int] = 512
    learning_rate: ClassVar[float] = 3e-3

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is not None and not any(held(folder, name) for name in UCI_FILES):
            raise DataError(
                f"Folder {folder} lacks {UCI_FILES[0]}; example '{self.name}' reads "
                f"{self.formats[0]}, from {UCI_SOURCE}."
            )

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(CENSUS_TASKS)

    @property
    def usual_tasks(self) -> tuple[str, ...]:
        """The first group of the paper."""
        return ("income", "never-married")

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; all 199,523 people only if it is the published size."""
        sizes = {"tiny": (2000, 1000), "default": (40_000, 20_000), "published": (None, None)}
        return census(seed, *sizes[size], folder=self.folder)

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`: MMoE."""
        return census_model("mmoe", tasks, split)

    def build(
        self, tasks: Sequence[str], split: Split, architecture: str | None = None
    ) -> nn.Module:
        """See :class:`Example`."""
        if architecture in CENSUS_MODELS:
            return census_model(architecture, tasks, split)
        return super().build(tasks, split, architecture)


def census_model(architecture: str, tasks: Sequence[str], split: Split) -> MultiTaskModel:
    """Embeddings, the architecture on top of them, and for each task a tower of 16 units.

    All architectures share about as much: one layer of 128 units, or eight experts of 16.

    Args:
        architecture: One of :data:`CENSUS_MODELS`.
        tasks: Those that get a tower.
        split: For the numbers of categories.
    """
    codes, numbers = split.train["input"]
    highest = codes.amax(dim=0).tolist()
    embedding = RecordEmbedding([value + 1 for value in highest], numbers.shape[1])
    heads: dict[str, nn.Module] = {}
    for task in tasks:
        inputs = EXPERT * EXPERTS if architecture == "shared" else EXPERT
        heads[task] = nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    criteria = {task: CENSUS_TASKS[task].loss for task in tasks}
    return Embedded(embedding, CENSUS_MODELS[architecture](embedding.outputs, heads, criteria))


def _expert(inputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(inputs, EXPERT), nn.ReLU())


def _shared(inputs: int, heads: Mapping[str, nn.Module], criteria: Any) -> MultiTaskModel:
    return SharedBottom(
        nn.Sequential(nn.Linear(inputs, EXPERT * EXPERTS), nn.ReLU()), heads, criteria
    )


#: Makes what comes after the embedding, of the number of its inputs, heads and criteria.
CENSUS_MODELS: dict[str, Callable[..., MultiTaskModel]] = {
    "shared": _shared,
    "mmoe": lambda inputs, heads, criteria: MMoE(_expert(inputs), EXPERTS, inputs, heads, criteria),
    "cgc": lambda inputs, heads, criteria: CGC(
        _expert(inputs), inputs, heads, criteria, own=2, shared=4
    ),
    "ple": lambda inputs, heads, criteria: PLE(
        [_expert(inputs), _expert(EXPERT)], [inputs, EXPERT], heads, criteria, own=2, shared=4
    ),
}

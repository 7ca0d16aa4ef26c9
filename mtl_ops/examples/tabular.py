"""Small tables with several targets: functions of yeast's genes, and flares of the sun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ..data import Goal, Split
from ..data.folders import DataError, find
from ..data.metrics import label_figures
from ..data.packaged import RIVER, Packaged
from ..data.river_tables import FLARE_TASKS, YEAST_TASKS, solar_flare, yeast
from ..models import Embedded, RecordEmbedding, SharedBottom
from .base import Example, Size

__all__ = ["SolarFlare", "Yeast"]


class TableExample(Example):
    """An example whose data are one file, of a folder or of a package."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        if folder is not None:
            name = self.formats[0].split()[0].removesuffix(".gz")
            self.path(name)

    def path(self, name: str) -> Path | None:
        """The file in the folder; ``None`` without a folder."""
        if self.folder is None:
            return None
        found = find(self.folder, name)
        if found is None:
            raise DataError(
                f"Folder {self.folder} lacks {name}; example '{self.name}' reads {self.formats[0]}, which "
                f"`{RIVER.command}` brings."
            )
        return found


class Yeast(TableExample):
    """Which of fourteen functional groups a gene of yeast belongs to, by 103 measurements.

    Fourteen tasks, and a training takes seconds.
    """

    name: ClassVar[str] = "yeast"
    title: ClassVar[str] = "yeast (14 labels)"
    note: str = (
        "Accuracy of each label; micro F1, macro F1 and Hamming loss of all. Data: MULAN's yeast, "
        "after Elisseeff and Weston, 2001."
    )
    formats: ClassVar[tuple[str, ...]] = ("yeast.csv.gz (river)",)
    packaged: ClassVar[Mapping[str, Packaged]] = {"yeast": RIVER}
    overall_names: ClassVar[tuple[str, ...]] = ("micro F1", "macro F1", "Hamming loss")
    published: ClassVar[Mapping[str, Any]] = {"size": "published"}
    methods: ClassVar[tuple[str, ...]] = ("upgrad", "famo", "uncertainty")
    epochs: ClassVar[int] = 20
    batch_size: ClassVar[int] = 64
    learning_rate: ClassVar[float] = 3e-3

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(YEAST_TASKS)

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`; the published size is MULAN's split, whatever the seed."""
        path = self.path("yeast.csv")
        split = yeast(None if size == "published" else seed, path)
        return _first(split, 300, 150) if size == "tiny" else split

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        width = 64
        backbone = nn.Sequential(
            nn.Linear(split.train["input"].shape[1], width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        return SharedBottom(
            backbone,
            {task: nn.Linear(width, 1) for task in tasks},
            {task: YEAST_TASKS[task].loss for task in tasks},
        )

    def overall(self, tallies: Mapping[str, Tensor]) -> dict[str, float]:
        """See :class:`Example`."""
        return label_figures(tallies)


class SolarFlare(TableExample):
    """How many flares of three sizes a region of the sun has in the next day."""

    name: ClassVar[str] = "solar-flare"
    title: ClassVar[str] = "solar flares (3 counts)"
    note: str = (
        "MSE of log(1 + count): 1 is the variance in the train part; few regions have large flares. "
        "Data: Solar Flare, UCI."
    )
    formats: ClassVar[tuple[str, ...]] = ("solar-flare.csv.zip (river)",)
    packaged: ClassVar[Mapping[str, Packaged]] = {"solar-flare": RIVER}
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "upgrad", "famo", "uncertainty")
    epochs: ClassVar[int] = 20
    batch_size: ClassVar[int] = 32

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(FLARE_TASKS)

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`."""
        split = solar_flare(seed, self.path("solar-flare.csv.zip"))
        return _first(split, 200, 100) if size == "tiny" else split

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        codes, numbers = split.train["input"]
        sizes = [value + 1 for value in codes.amax(dim=0).tolist()]
        # Categories that the test part alone has; the tables are tiny.
        tested = [value + 1 for value in split.test["input"][0].amax(dim=0).tolist()]
        embedding = RecordEmbedding([max(pair) for pair in zip(sizes, tested, strict=True)], 7)
        inner = SharedBottom(
            nn.Sequential(nn.Linear(numbers.shape[1] + 12, 32), nn.ReLU()),
            {task: nn.Linear(32, 1) for task in tasks},
            {task: FLARE_TASKS[task].loss for task in tasks},
        )
        return Embedded(embedding, inner)


def _first(split: Split, train: int, test: int) -> Split:
    def part(batch: dict[str, object], count: int) -> dict[str, object]:
        return {name: _cut(value, count) for name, value in batch.items()}

    return Split(part(split.train, train), part(split.test, test))


def _cut(value: object, count: int) -> object:
    if isinstance(value, Tensor):
        return value[:count]
    assert isinstance(value, tuple)
    return type(value)(*(each[:count] for each in value))

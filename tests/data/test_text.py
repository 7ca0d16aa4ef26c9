"""Prose by topic, embedded and from a folder."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import LINES

from mtl_ops.data.folders import DataError
from mtl_ops.data.text import ag_news, encode, topics, vocabulary


def test_passages_go_to_one_part_only() -> None:
    train, test = topics(seed=1, classes=3, each=40)
    assert torch.bincount(train["text"]).tolist() == [30, 30, 30]
    assert torch.bincount(test["text"]).tolist() == [10, 10, 10]
    assert train["input"].dtype == torch.int64
    assert train["input"].max() < 2000
    other = topics(seed=2, classes=3, each=40)
    assert not torch.equal(other.train["input"], train["input"])
    rows = {tuple(row) for row in train["input"].tolist()}
    assert not rows & {tuple(row) for row in test["input"].tolist()}


def test_the_topic_can_be_told_from_the_words() -> None:
    """By the nearest mean of bags of words, far more often than by chance."""
    train, test = topics(classes=4, each=60)
    bags = [
        torch.nn.functional.one_hot(part["input"], 2000)[..., 2:].sum(1).float()
        for part in (train, test)
    ]
    means = torch.stack([bags[0][train["text"] == label].mean(0) for label in range(4)])
    guess = torch.nn.functional.normalize(bags[1]) @ torch.nn.functional.normalize(means).T
    assert (guess.argmax(1) == test["text"]).float().mean() > 0.6


def test_the_vocabulary_is_that_of_the_most_common_words() -> None:
    numbers = vocabulary([["b", "a", "c"], ["b", "c"], ["b"]], size=4)
    assert numbers == {"b": 2, "c": 3}
    assert encode([["a", "b"], ["c", "b", "b", "b"]], numbers, words=3).tolist() == [
        [1, 2, 0],
        [3, 2, 2],
    ]


def test_a_python_without_the_text_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pydoc_data"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="comes without `pydoc_data`"):
        topics()


@pytest.mark.parametrize(
    "given", [{"classes": 1}, {"each": 0}, {"test_fraction": 1.0}, {"test_fraction": 0.0}]
)
def test_refusals(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"`{next(iter(given))}` should be"):
        topics(**given)


def _write(folder: Path, train: str, test: str = LINES) -> None:
    (folder / "train.csv").write_text(train, encoding="utf-8")
    (folder / "test.csv").write_text(test, encoding="utf-8")


def test_ag_news(tmp_path: Path) -> None:
    _write(tmp_path, LINES * 2)
    train, test = ag_news(tmp_path)
    assert train["text"].tolist() == [2, 0, 2, 0]
    assert (test["input"] != 0).sum(1).tolist() == [7, 6]
    assert torch.equal(train["input"][:2], test["input"])
    assert len(ag_news(tmp_path, limit=1).train["text"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"3","title"\n', "line 1"),
        (LINES + '"5","title","text"\n', "line 3"),
        (LINES + '"x","title","text"\n', "line 3"),
        (LINES + '"2","title","te', "truncated"),
        ("", "is empty"),
    ],
)
def test_what_is_no_ag_news(tmp_path: Path, text: str, message: str) -> None:
    _write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        ag_news(tmp_path)
    assert str(tmp_path / "train.csv") in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    _write(tmp_path, LINES)
    (tmp_path / "test.csv").write_bytes(b'"1","\xff\xfe","x"\n')
    with pytest.raises(DataError, match=r"test\.csv is truncated, or no CSV file"):
        ag_news(tmp_path)


def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks train\.csv, test\.csv; get the files from .*2015"):
        ag_news(tmp_path)

"""Batches of one set, and of several sets of different sizes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mtl_ops.data import Loader, move


class Pair(NamedTuple):
    values: Tensor
    lengths: Tensor


def _own(name: str, count: int) -> dict[str, object]:
    rows = torch.arange(count)
    return {"input": Pair(rows.float(), rows), name: (rows, 2 * rows)}


def test_an_epoch_of_one_set_takes_every_example_once_and_drops_the_rest() -> None:
    data = {"input": torch.arange(10.0), "a": torch.arange(10)}
    batches = list(Loader(data, 3).epoch(torch.Generator().manual_seed(0)))
    assert [len(batch["a"]) for batch in batches] == [3, 3, 3]
    seen = torch.cat([batch["input"] for batch in batches])
    assert len(seen.unique()) == 9
    assert all(torch.equal(batch["input"].long(), batch["a"]) for batch in batches)


def test_sets_of_different_sizes_are_spread_and_tasks_go_missing() -> None:
    data = {"large": _own("large", 20), "small": _own("small", 6), "least": _own("least", 1)}
    loader = Loader(data, 2)
    assert loader.steps == 10
    batches = list(loader.epoch(torch.Generator().manual_seed(0)))
    places = {name: [i for i, b in enumerate(batches) if name in b["input"]] for name in data}
    assert places == {"large": list(range(10)), "small": [0, 3, 6], "least": [0]}
    assert [sorted(batch) for batch in batches[:2]] == [
        ["input", "large", "least", "small"],
        ["input", "large"],
    ]
    pair = batches[3]["input"]["small"]
    assert isinstance(pair, Pair)
    assert torch.equal(batches[3]["small"][1], 2 * pair.lengths)
    assert (
        len(torch.cat([b["input"]["small"].lengths for b in batches if "small" in b]).unique()) == 6
    )


def test_only_the_sets_of_the_tasks_that_are_wanted() -> None:
    loader = Loader({"large": _own("large", 20), "small": _own("small", 6)}, 2, ["small"])
    assert loader.steps == 3
    assert all(set(batch) == {"input", "small"} for batch in loader.epoch(torch.Generator()))


def test_parts_are_all_examples_in_order() -> None:
    parts = list(Loader({"a": _own("a", 5)}, 2).parts(2))
    assert torch.cat([part["a"][0] for part in parts]).tolist() == [0, 1, 2, 3, 4]


def test_moving_keeps_the_form() -> None:
    moved = move({"a": _own("a", 2)}, "meta")
    assert isinstance(moved["a"]["input"], Pair)
    assert moved["a"]["a"][1].device.type == "meta"


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"should be positive\. Found `batch_size = 0`"):
        Loader({"input": torch.zeros(3)}, 0)
    with pytest.raises(ValueError, match=r"`data` should hold examples\. Found {'a': 0}"):
        Loader({"a": {"input": torch.zeros(0)}}, 1)
    with pytest.raises(ValueError, match=r"`data` should hold examples\. Found {}"):
        Loader({"a": {"input": torch.zeros(2)}}, 1, ["b"])

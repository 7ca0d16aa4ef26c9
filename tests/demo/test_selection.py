"""Which methods take part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mtl_ops import methods
from mtl_ops.data import Split
from mtl_ops.demo.config import ALL, DEFAULT_METHODS, Config
from mtl_ops.demo.selection import select

pytest.importorskip("tensorboard")

from mtl_ops.demo.experiment import load_data


@pytest.fixture(scope="module")
def split() -> Split:
    return load_data(Config(), 0)


@pytest.fixture
def awkward() -> Iterator[None]:
    """Two methods that cannot be trained: one asks for an argument, one refuses its first step."""

    @methods.register("asks")
    class Asks(methods.Method):
        def __init__(self, *, answer: float) -> None:
            self.answer = answer

        def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
            return torch.full((2,), self.answer)

    @methods.register("refuses")
    class Refuses(methods.Method):
        def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
            raise ValueError("Not today.")

    yield
    methods.unregister("asks")
    methods.unregister("refuses")


def _config(*names: str) -> Config:
    return Config(methods=names or None, tasks=("digit", "parity"))


@pytest.mark.usefixtures("awkward")
def test_unless_named_those_of_the_default_list(split: Split) -> None:
    assert select(_config(), split) == (list(DEFAULT_METHODS), {})


@pytest.mark.usefixtures("awkward")
def test_all_leaves_out_what_cannot_be_trained_and_says_why(split: Split) -> None:
    chosen, left_out = select(_config(ALL), split)
    assert sorted([*chosen, *left_out]) == methods.available()
    assert "answer" in left_out["asks"]
    assert left_out["refuses"] == "Not today."
    assert set(DEFAULT_METHODS) < set(chosen)


@pytest.mark.usefixtures("awkward")
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("asks", TypeError, "answer"), ("refuses", ValueError, "Not today")],
)
def test_a_method_that_was_named_is_refused_aloud(
    split: Split, name: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        select(_config("sum", name), split)


def test_the_order_is_the_users(split: Split) -> None:
    assert select(_config("sum", "mean"), split) == (["sum", "mean"], {})
    assert select(_config("mean", "sum"), split) == (["mean", "sum"], {})


def test_random_numbers_of_the_caller_are_left_alone(split: Split) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    select(_config("sum"), split)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_left_is_an_error(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "available", lambda: ["plain"])
    with pytest.raises(ValueError, match=r"No method can be trained.*taken by a baseline"):
        select(_config(ALL), split)

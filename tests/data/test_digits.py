"""The digits: split, standardisation, targets."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from mtl_ops.data import DIGITS_TASKS, Batch, digits


def _counts(labels: Tensor) -> Tensor:
    return torch.bincount(labels, minlength=10)


def test_every_image_is_in_one_part_and_only_in_one() -> None:
    # here: it takes seconds, which every process would spend before it has any test
    from sklearn.datasets import load_digits

    train, test = digits(seed=3)
    assert (len(train["digit"]), len(test["digit"])) == (1347, 450)
    # Undo the standardisation by the values of two known pixels: the darkest and the brightest.
    both = torch.cat([train["input"], test["input"]])
    raw = (both - both.min()) / (both.max() - both.min()) * 16
    expected = torch.as_tensor(load_digits().images, dtype=torch.float32).flatten(1)
    assert sorted(raw.round().flatten(1).tolist()) == sorted(expected.tolist())


def test_shapes_and_types() -> None:
    for part, count in zip(digits(), (1347, 450), strict=True):
        shapes = {name: (tuple(values.shape), values.dtype) for name, values in part.items()}
        assert shapes == {
            "input": ((count, 1, 8, 8), torch.float32),
            "digit": ((count,), torch.int64),
            "parity": ((count,), torch.float32),
            "at-least-five": ((count,), torch.float32),
            "reconstruction": ((count, 64), torch.float32),
        }


def test_targets_follow_from_the_digit_and_the_image() -> None:
    for part in digits():
        labels = part["digit"].tolist()
        assert part["parity"].tolist() == [label % 2 for label in labels]
        assert part["at-least-five"].tolist() == [label >= 5 for label in labels]
        torch.testing.assert_close(part["reconstruction"], part["input"].flatten(1))


def test_every_digit_has_its_share_of_the_test_part() -> None:
    train, test = digits(seed=1)
    total = _counts(train["digit"]) + _counts(test["digit"])
    assert (_counts(test["digit"]) - 0.25 * total).abs().max() <= 1


def test_standardised_by_the_train_part_alone() -> None:
    train, test = digits(seed=2)
    assert train["input"].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert train["input"].std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    # A test part standardised by itself would have mean 0 too.
    assert abs(test["input"].mean().item()) > 1e-4
    # The same darkest pixel in both parts, so the same mean and deviation.
    assert train["input"].min() == test["input"].min()


def test_the_seed_decides_the_split() -> None:
    first, again, other = digits(seed=0), digits(seed=0), digits(seed=1)
    assert _same(first.train, again.train)
    assert _same(first.test, again.test)
    assert not torch.equal(first.test["digit"], other.test["digit"])


def _same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


def test_the_test_fraction_is_used() -> None:
    train, test = digits(test_fraction=0.5)
    assert (len(train["input"]), len(test["input"])) == (898, 899)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"`test_fraction = {fraction}`"):
        digits(test_fraction=fraction)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "mtl-ops\[demo\]"'):
        digits()


def test_there_are_four_tasks() -> None:
    assert list(DIGITS_TASKS) == ["digit", "parity", "at-least-five", "reconstruction"]
    assert [task.outputs for task in DIGITS_TASKS.values()] == [10, 1, 1, 64]

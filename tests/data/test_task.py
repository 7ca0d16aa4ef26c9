"""Losses and metrics of the three kinds of tasks, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mtl_ops.data import Task

CLASSES = Task("c", 3, "classes")
BINARY = Task("b", 1, "binary")
REGRESSION = Task("r", 2, "regression")


def test_classes() -> None:
    output = torch.tensor([[0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    target = torch.tensor([0, 2])
    wrong = -math.log(1 / (2 + math.exp(5)))
    assert CLASSES.loss(output, target).item() == pytest.approx((math.log(3) + wrong) / 2)
    assert CLASSES.score(output, target).item() == 0.5


def test_binary() -> None:
    output = torch.tensor([[2.0], [2.0], [-1.0], [0.0]])
    target = torch.tensor([1.0, 0.0, 0.0, 1.0])
    losses = [math.log1p(math.exp(z)) for z in (-2.0, 2.0, -1.0, 0.0)]
    assert BINARY.loss(output, target).item() == pytest.approx(sum(losses) / 4)
    # A logit of 0 says nothing and counts as "no".
    assert BINARY.score(output, target).item() == 0.5


def test_regression() -> None:
    output = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    target = torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    assert REGRESSION.loss(output, target).item() == pytest.approx(10 / 4)
    assert REGRESSION.score(output, target).item() == pytest.approx(10 / 4)


@pytest.mark.parametrize("task", [CLASSES, BINARY, REGRESSION])
def test_better_outputs_score_better(task: Task) -> None:
    target = {
        "c": torch.tensor([0, 1]),
        "b": torch.tensor([1.0, 0.0]),
        "r": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }[task.name]
    good = {
        "c": torch.eye(3)[:2],
        "b": torch.tensor([[1.0], [-1.0]]),
        "r": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    }[task.name]
    better, worse = task.score(good, target), task.score(-good, target)
    assert (better > worse) == task.higher_is_better
    assert task.loss(good, target) < task.loss(-good, target)
    assert task.metric == ("accuracy" if task.higher_is_better else "MSE")

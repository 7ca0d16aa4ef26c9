"""The network of the experiment: shapes, size, and which loss reaches which parameter."""

from __future__ import annotations

import pytest
import torch

from mtl_ops.data import DIGITS_TASKS, digits
from mtl_ops.models import DigitsCNN


def test_output_shapes() -> None:
    outputs = DigitsCNN()(torch.randn(6, 1, 8, 8))
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        task.name: (6, task.outputs) for task in DIGITS_TASKS.values()
    }


def test_as_large_as_the_docstring_says() -> None:
    count = sum(parameter.numel() for parameter in DigitsCNN().parameters())
    assert round(count, -3) == 106_000
    assert f"{round(count, -3):,} parameters" in (DigitsCNN.__doc__ or "")


def test_widths_are_used() -> None:
    model = DigitsCNN(["digit"], channels=(2, 3, 5), features=7)
    ordered = [*model.backbone.parameters(), *model.heads.parameters()]
    shapes = [tuple(parameter.shape) for parameter in ordered if parameter.dim() > 1]
    assert shapes == [(2, 1, 3, 3), (3, 2, 3, 3), (5, 3, 3, 3), (7, 80), (10, 7)]


@pytest.mark.parametrize("task", list(DIGITS_TASKS))
def test_a_loss_reaches_the_whole_backbone_and_its_own_head_only(task: str) -> None:
    torch.manual_seed(0)
    model = DigitsCNN()
    batch = {name: values[:32] for name, values in digits().train.items()}
    model.losses(batch)[task].backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert reached == name.startswith(("backbone.", f"heads.{task}.")), name


def test_the_losses_can_be_learnt() -> None:
    torch.manual_seed(0)
    model = DigitsCNN()
    batch = {name: values[:64] for name, values in digits().train.items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = {task: loss.item() for task, loss in model.losses(batch).items()}
    for _ in range(40):
        optimizer.zero_grad()
        sum(model.losses(batch).values(), torch.zeros(())).backward()
        optimizer.step()
    after = {task: loss.item() for task, loss in model.losses(batch).items()}
    assert all(after[task] < 0.5 * before[task] for task in before), (before, after)


def test_an_unknown_task_is_refused_and_the_choices_named() -> None:
    with pytest.raises(ValueError, match=r"'at-least-five', 'reconstruction'\].*\['colour'\]"):
        DigitsCNN(["colour"])


def test_a_task_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each task once"):
        DigitsCNN(["digit", "digit"])


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        DigitsCNN([])

"""A shared backbone with heads: what runs, what is refused, where gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtl_ops.models import SharedBottom

mse = nn.functional.mse_loss


def _model() -> SharedBottom:
    return SharedBottom(
        nn.Linear(3, 4), {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)}, {"b": mse, "a": mse}
    )


def _batch() -> dict[str, torch.Tensor]:
    return {"input": torch.randn(5, 3), "a": torch.randn(5, 1), "b": torch.randn(5, 2)}


def test_outputs_are_those_of_backbone_and_head() -> None:
    model, batch = _model(), _batch()
    outputs = model(batch["input"])
    assert list(outputs) == ["a", "b"] == list(model.tasks)
    for task, output in outputs.items():
        expected = model.heads[task](model.backbone(batch["input"]))
        torch.testing.assert_close(output, expected)


def test_losses_in_the_order_of_the_heads() -> None:
    model, batch = _model(), _batch()
    losses = model.losses(batch)
    assert list(losses) == ["a", "b"]
    for task, loss in losses.items():
        torch.testing.assert_close(loss, mse(model(batch["input"])[task], batch[task]))


def test_the_backbone_runs_once_for_all_tasks() -> None:
    model = _model()
    calls: list[object] = []
    model.backbone.register_forward_hook(lambda *_: calls.append(None))
    model.losses(_batch())
    assert len(calls) == 1


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_task_without_a_target_is_absent(missing: str) -> None:
    batch = _batch()
    del batch[missing]
    losses = _model().losses(batch)
    assert list(losses) == ["a", "b"]
    assert [task for task, loss in losses.items() if loss is None] == [missing]


def test_a_batch_without_input_or_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="`batch` should hold 'input'"):
        _model().losses({"a": torch.zeros(5, 1)})
    with pytest.raises(ValueError, match="`batch` should hold a target of at least one of"):
        _model().losses({"input": torch.zeros(5, 3)})


def test_no_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="`heads` should name at least one task"):
        SharedBottom(nn.Linear(3, 4), {}, {})


def test_heads_and_criteria_for_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`heads` for \['a'\] and `criteria` for \['b'\]"):
        SharedBottom(nn.Linear(3, 4), {"a": nn.Linear(4, 1)}, {"b": mse})


@pytest.mark.parametrize("name", ["input", "a.b", "", "training", "keys"])
def test_names_that_no_task_can_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`heads` should name tasks without a dot.*{name!r}"):
        SharedBottom(nn.Linear(3, 4), {name: nn.Linear(4, 1)}, {name: mse})

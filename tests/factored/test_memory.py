"""No T gradients are held anywhere, in whichever step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from factor_steps import by_factors, by_rows
from live_bytes import peak_bytes
from multitask import Fixed
from torch import Tensor, nn

from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.tasks import read_losses
from mtl_ops.merging.rules import Rules

TASKS, WIDTH, LAYERS, BATCH = 8, 256, 4, 8
#: Of one gradient of the model, in bytes.
GRADIENT = 4 * WIDTH * WIDTH * LAYERS
RULES = Rules(max_norm=1.0)


def step_of(take: Callable[..., Any], tasks: int = TASKS, **options: Any) -> Callable[[], object]:
    """A step of a wide MLP, without the inner optimizer's."""
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    trunk = nn.Sequential(*layers)
    heads = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(tasks))
    params = [*trunk.parameters(), *heads.parameters()]
    data = torch.randn(BATCH, WIDTH)
    method = Fixed(*[1.0] * tasks)

    def losses() -> list[Tensor]:
        features = trunk(data)
        return [head(features).square().mean() for head in heads]

    def step() -> None:
        for param in params:
            param.grad = None
        take(method, read_losses(losses()), params, [1.0] * tasks, RULES, **options)

    return step


def test_a_step_holds_little_more_than_the_merged_gradient() -> None:
    step = step_of(by_factors, factoring=Factoring("auto"))
    step()
    held = peak_bytes(step)
    assert held < 1.7 * GRADIENT
    rows = step_of(by_rows)
    rows()
    assert peak_bytes(rows) > TASKS * GRADIENT


def test_the_first_step_holds_a_few_gradients_whatever_the_number_of_tasks() -> None:
    for tasks in (8, 16):
        step = step_of(by_factors, tasks, factoring=Factoring("auto"))
        assert peak_bytes(step) < 5 * GRADIENT


@pytest.mark.parametrize("tasks", [4, 16])
def test_what_grows_with_the_tasks_is_rows_of_the_batch(tasks: int) -> None:
    step = step_of(by_factors, tasks, factoring=Factoring("factored"))
    step()
    held = peak_bytes(step)
    deltas = 4 * tasks * BATCH * WIDTH * LAYERS
    assert held < 1.3 * GRADIENT + 4 * deltas

"""Predictions that are joined in one tensor before each loss takes its part: each head stays its own task's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import assert_equal, assert_same, grads, wrap
from torch import Tensor, nn

TARGETS = (1.0, -1.0, 0.3)


class Heads(nn.Module):
    """A trunk and three heads."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(6, 1) for _ in range(3)])
        self.double()

    def forward(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        features = self.trunk(torch.randn(8, 5, generator=generator, dtype=torch.float64))
        return [head(features) for head in self.heads]


def losses(outputs: Any) -> list[Tensor]:
    """One for each output, of very different sizes."""
    return [
        (output.reshape(8) - target).square().mean() * 10.0**k
        for k, (output, target) in enumerate(zip(outputs, TARGETS, strict=True))
    ]


def assigned(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(8, 3, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[:, k] = output[:, 0]
    return joined


def assigned_by_index(outputs: list[Tensor]) -> Tensor:
    joined = torch.zeros(3, 8, dtype=torch.float64)
    for k, output in enumerate(outputs):
        joined[torch.tensor([k])] = output.T
    return joined


def assigned_in_part(outputs: list[Tensor]) -> Tensor:
    joined = torch.cat([outputs[0], outputs[0], outputs[0]], dim=1).clone()
    joined[..., 1:] = torch.cat(outputs[1:], dim=1)
    return joined


def preallocated_losses(outputs: list[Tensor]) -> Tensor:
    found = torch.zeros(3, dtype=torch.float64)
    for k, loss in enumerate(losses(outputs)):
        found[k] = loss
    return found


def columnwise(outputs: list[Tensor]) -> Tensor:
    errors = (torch.cat(outputs, 1) - torch.tensor(TARGETS, dtype=torch.float64)).square()
    return errors.mean(dim=0) * 10.0 ** torch.arange(3)


def columns(joined: Tensor) -> list[Tensor]:
    return [joined[:, k] for k in range(3)]


JOINED: dict[str, Callable[[list[Tensor]], list[Tensor] | Tensor]] = {
    "cat, slice": lambda y: losses([torch.cat(y, 1)[:, k : k + 1] for k in range(3)]),
    "cat, select": lambda y: losses(columns(torch.cat(y, 1))),
    "cat, ellipsis": lambda y: losses([torch.cat(y, -1)[..., k - 3] for k in range(3)]),
    "cat, index": lambda y: losses([torch.cat(y, 1)[:, torch.tensor([k])] for k in range(3)]),
    "cat, index_select": lambda y: losses(
        [torch.cat(y, 1).index_select(1, torch.tensor([k])) for k in range(3)]
    ),
    "cat, chunk": lambda y: losses(torch.cat(y, 1).chunk(3, 1)),
    "cat, split": lambda y: losses(torch.cat(y, -1).split([1, 1, 1], -1)),
    "cat, view": lambda y: losses(columns(torch.cat(y, 1).reshape(-1).view(2, 4, 3).flatten(0, 1))),
    "cat of rows": lambda y: losses(torch.cat(y, 0).view(3, 8)),
    "stack, index": lambda y: losses([torch.stack(y)[k] for k in range(3)]),
    "stack, unbind": lambda y: losses(torch.stack(y, -1).unbind(-1)),
    "stack, permute": lambda y: losses(torch.stack(y, 1).permute(1, 2, 0).contiguous().squeeze(1)),
    "zeros, assignment": lambda y: losses(columns(assigned(y))),
    "zeros, assignment by index": lambda y: losses(assigned_by_index(y).unbind()),
    "assignment of a join": lambda y: losses(columns(assigned_in_part(y))),
    "a constant among them": lambda y: losses(
        columns(torch.cat([y[0], torch.zeros_like(y[0]), *y[1:]], 1)[:, [0, 2, 3]])
    ),
    "preallocated losses": preallocated_losses,
    "preallocated losses, item by item": lambda y: list(preallocated_losses(y)),
    "columns of errors": columnwise,
    "stacked losses times a factor": lambda y: 1.0 * torch.stack(losses(y)),
}


@pytest.mark.parametrize("method", ["upgrad", "mgda", "nash_mtl", "pcgrad"])
@pytest.mark.parametrize("form", JOINED)
def test_is_the_same_as_not_joined(form: str, method: str) -> None:
    apart, joined = Heads(), Heads()
    torch.manual_seed(0)
    first = wrap(apart, method)
    first.backward(losses(apart()))
    torch.manual_seed(0)
    second = wrap(joined, method)
    second.backward(JOINED[form](joined()))
    assert_same(grads(apart), grads(joined), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(first.report.gram, second.report.gram)
    if form not in ("columns of errors", "cat, view", "stacked losses times a factor"):
        assert_equal(grads(apart), grads(joined))

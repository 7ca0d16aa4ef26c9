"""Numbers of the tasks that a method is given once: on the device they take no copy from the host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_ops.methods import _checks
from mtl_ops.methods._checks import PerTask, filled

VALUES = [0.1, 2.0, -3.0]


class Calls(TorchDispatchMode):
    """The names of the operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__.partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_nothing_is_copied_from_the_host() -> None:
    numbers = PerTask("numbers", VALUES)
    with Calls() as calls:
        there = numbers.on(torch.device("meta"), 3)
    assert set(calls.names) <= {"full", "stack", "cat"}
    assert there.shape == (3,)
    assert there.dtype == torch.float64
    assert numbers.on(torch.device("meta"), 3) is there


def test_what_a_graph_fills_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds nothing before the first replay, and an eager step may come before that."""
    numbers = PerTask("numbers", VALUES)
    monkeypatch.setattr(_checks, "capturing", lambda: True)
    captured = numbers.on(torch.device("meta"), 3)
    monkeypatch.undo()
    assert numbers.on(torch.device("meta"), 3) is not captured


def test_the_numbers(device: torch.device) -> None:
    expected = torch.tensor(VALUES, dtype=torch.float64)
    assert torch.equal(filled(expected, device).cpu(), expected)
    assert torch.equal(PerTask("numbers", VALUES).on(device, 3).cpu(), expected)

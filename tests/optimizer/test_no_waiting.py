"""No step waits for the device: nothing is copied to the host, and reports are read lazily."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from multitask import Net, batch, every_method, method, train, wrap
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators whose result is on the host, so that on a GPU the caller waits.
WAITING = (
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::equal",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::_assert_async",
)


class Watch(TorchDispatchMode):
    """Counts the operators that make a GPU's caller wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in WAITING:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def watched(*calls: Any) -> list[Counter[str]]:
    seen = []
    for call in calls:
        with Watch() as watch:
            call()
        seen.append(watch.seen)
    return seen


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers on the CPU are taken for a device's, which are not to be read."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("mtl_ops.") and hasattr(module, "readable"):
            monkeypatch.setattr(module, "readable", lambda _: False)


def test_watch_sees_what_waits() -> None:
    (seen,) = watched(lambda: torch.ones(3).sum().item())
    assert seen == {"aten::_local_scalar_dense": 1}


# In a step on the CPU, where nothing waits, one number may be read: whether the gradients are lost.
@pytest.mark.parametrize(
    ("nonfinite", "allowed"), [("skip_task", 1), ("skip_step", 1), ("propagate", 0)]
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_norm": 0.1, "max_task_norm": 0.2, "clip_value": 0.1, "granularity": "tensor"},
        {"normalise": "loss+", "keep_scale": True, "task_weights": {"a": 0.5}},
        {"memory": "stream", "granularity": "tensor"},
        {"memory": "stream", "max_norm": 0.1},
    ],
    ids=str,
)
@pytest.mark.usefixtures("unreadable")
def test_counts(nonfinite: Any, allowed: int, options: dict[str, Any]) -> None:
    net = Net()
    optimizer = wrap(net, "mean", nonfinite=nonfinite, **options)
    train(net, optimizer, range(1))
    losses = net.losses(batch())
    backward, step = watched(lambda: optimizer.backward(losses), optimizer.step)
    assert sum(backward.values()) == 0, backward
    assert sum(step.values()) <= allowed, step


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("name", every_method())
def test_backward_of_every_method_reads_nothing(name: str) -> None:
    net = Net()
    optimizer = wrap(net, method(name), lr=1e-3)
    train(net, optimizer, range(2))
    losses = net.losses(batch())
    (seen,) = watched(lambda: optimizer.backward(losses))
    assert sum(seen.values()) == 0, seen


def test_raise_is_the_mode_that_reads() -> None:
    net = Net()
    optimizer = wrap(net, "mean", nonfinite="raise")
    losses = net.losses(batch())
    with torch.profiler.profile() as profile:
        optimizer.backward(losses)
    assert profile.key_averages()  # on the CPU `tolist` reads memory, which no operator shows


def test_reading_the_report_computes_and_reads_nothing() -> None:
    net = Net()
    optimizer = wrap(net, "mean", max_norm=0.1)
    optimizer.backward(net.losses(batch()))
    names = ("weights", "gram", "norms", "cosines", "losses", "clip_scale", "skipped")
    (seen,) = watched(lambda: [getattr(optimizer.report, name) for name in names])
    assert sum(seen.values()) == 0, seen

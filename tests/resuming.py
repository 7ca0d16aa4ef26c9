"""Training that is interrupted, saved, loaded into something new, and goes on: the same bits as without."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from multitask import NAMES, Net, assert_equal, batch, wrap
from torch import Tensor

from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import Method

#: What a training loop does around a step: what it gives to ``backward``, and what comes after ``step``.
Given = Callable[[int], dict[str, Any]]
After = Callable[[Net, MultiTaskOptimizer, int], None]


def nothing_given(step: int) -> dict[str, Any]:
    """What most methods need."""
    return {}


def nothing_after(net: Net, optimizer: MultiTaskOptimizer, step: int) -> None:
    """What most methods need."""


def take_steps(
    net: Net,
    optimizer: MultiTaskOptimizer,
    steps: range,
    given: Given = nothing_given,
    after: After = nothing_after,
) -> list[Tensor]:
    """Some steps, in some of which a task is absent; returns the weights of each."""
    weights = []
    for step in steps:
        losses: dict[str, Tensor | None] = {**net.losses(batch(step, like=net))}
        if step % 3 == 1:
            losses[NAMES[step % 2]] = None
        optimizer.zero_grad()
        optimizer.backward(losses, **given(step))
        optimizer.step()
        after(net, optimizer, step)
        assert optimizer.report.weights is not None
        weights.append(optimizer.report.weights.clone())
    return weights


def saved_and_loaded(state: Any) -> Any:
    """Through a file, as a user who trusts nobody loads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_resumes(
    make: Callable[[], Method],
    given: Given = nothing_given,
    after: After = nothing_after,
    **options: Any,
) -> None:
    """Resumed training has the same bits as training that was never interrupted, and as that of a copy."""
    options = {"inner": torch.optim.Adam, "lr": 0.02, **options}
    for dtype in (torch.float32, torch.float64):
        net = Net(dtype)
        optimizer = wrap(net, make(), **options)
        take_steps(net, optimizer, range(5), given, after)
        checkpoint = saved_and_loaded([net.state_dict(), optimizer.state_dict()])
        copied, copied_optimizer = copy.deepcopy([net, optimizer])
        expected = take_steps(net, optimizer, range(5, 10), given, after)
        assert all(weights.isfinite().all() for weights in expected)

        resumed = Net(dtype, seed=1)
        again = wrap(resumed, make(), **options)
        resumed.load_state_dict(checkpoint[0])
        again.load_state_dict(checkpoint[1])
        assert_equal(take_steps(resumed, again, range(5, 10), given, after), expected)
        assert_equal(resumed.parameters(), net.parameters())

        assert_equal(take_steps(copied, copied_optimizer, range(5, 10), given, after), expected)
        assert_equal(copied.parameters(), net.parameters())


def assert_forgets(
    make: Callable[[], Method],
    given: Given = nothing_given,
    after: After = nothing_after,
    **options: Any,
) -> None:
    """After ``reset`` a method answers as a new one, and before it does not."""

    def answers(method: Method) -> list[Tensor]:
        net = Net()
        return take_steps(net, wrap(net, method, **options), range(4), given, after)

    method = make()
    first = answers(method)
    second = answers(method)
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    method.reset()
    assert_equal(answers(method), first)

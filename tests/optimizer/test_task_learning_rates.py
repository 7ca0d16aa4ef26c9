"""``task_weights`` as a function of the step: a learning rate of each task's own, on a schedule."""

from __future__ import annotations

import torch
from multitask import NAMES, Net, assert_same, batch, wrap


def rates(step: int) -> dict[str, float]:
    """Constant, decaying, and switched on late."""
    return {"a": 1.0, "b": 0.8**step, "c": 0.0 if step < 2 else 2.0}


def test_with_sgd_they_are_learning_rates() -> None:
    net, by_hand = Net(), Net()
    optimizer = wrap(net, "sum", lr=0.1, tasks=NAMES, task_weights=rates)
    for step in range(6):
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
        losses = by_hand.losses(batch(step))
        for name in NAMES:
            grads = torch.autograd.grad(
                losses[name], list(by_hand.parameters()), retain_graph=True, materialize_grads=True
            )
            with torch.no_grad():
                for param, grad in zip(by_hand.parameters(), grads, strict=True):
                    # All of a step's gradients are of the same parameters: moved afterwards.
                    moved = getattr(param, "moved", 0.0)
                    param.moved = moved - 0.1 * rates(step)[name] * grad  # type: ignore[attr-defined]
        with torch.no_grad():
            for param in by_hand.parameters():
                param.add_(param.moved)  # type: ignore[attr-defined]
                param.moved = 0.0  # type: ignore[attr-defined]
        assert_same(net.parameters(), by_hand.parameters())


def test_a_method_sees_the_weighted_tasks() -> None:
    net, other = Net(), Net()
    one = wrap(net, "mgda", tasks=NAMES, task_weights=lambda step: rates(step + 2))
    two = wrap(other, "mgda", tasks=NAMES)
    for step in range(4):
        one.zero_grad()
        one.backward(net.losses(batch(step)))
        two.zero_grad()
        factors = rates(2)  # no step is taken
        two.backward({k: factors[k] * v for k, v in other.losses(batch(step)).items()})
        assert one.report.weights is not None
        scale = torch.tensor([[factors[name] for name in NAMES]], dtype=torch.float64)
        torch.testing.assert_close(one.report.weights, scale * two.report.weights)

"""Online PCGrad with ``memory="stream"``: two gradients at a time, and what all at once give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, grads, wrap
from torch import Tensor

from mtl_ops.step import online

ORDER = torch.tensor([2, 0, 1])


def merged(net: Net, losses: Any = None, given: Any = None, **options: Any) -> list[Tensor | None]:
    optimizer = wrap(net, "online_pcgrad", **options)
    optimizer.backward(
        net.losses(batch(like=net)) if losses is None else losses,
        **{"order": ORDER, **(given or {})},
    )
    found = grads(net)
    net.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_task_norm": 0.3},
        {"max_norm": 0.2},
        {"granularity": "tensor"},
        {"task_weights": {"a": 0.5, "c": 2.0}},
        {"task_weights": {"b": 0.0}},
        {"clip_value": 0.01},
        {"normalise": "l2"},
    ],
)
def test_the_same_as_all_at_once(options: dict[str, Any]) -> None:
    net = Net()
    assert_same(
        merged(net, memory="stream", **options), merged(net, **options), rtol=1e-9, atol=1e-12
    )


def test_an_order_for_each_set() -> None:
    net = Net()
    sets = len([*net.trunk.parameters(), *net.neck.parameters()])
    orders = torch.stack([torch.tensor([0, 1, 2]).roll(s) for s in range(sets)])
    found, wanted = (
        merged(net, given={"order": orders}, granularity="tensor", **options)
        for options in ({"memory": "stream"}, {})
    )
    assert_same(found, wanted, rtol=1e-9, atol=1e-12)


def test_one_backward_a_loss_and_two_gradients_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held, net = [], Net()
    add = online._Sum.add

    def watched(self: Any, task: int, gradient: list[Tensor | None]) -> None:
        add(self, task, gradient)
        held.append((task, all(row is None for row in gradient)))

    monkeypatch.setattr(online._Sum, "add", watched)
    calls = [0]
    net.trunk[0].weight.register_hook(lambda grad: calls.__setitem__(0, calls[0] + 1))
    merged(net, memory="stream")
    assert calls == [3]
    assert held == [(2, True), (0, True), (1, True)]


def test_a_task_that_is_absent_or_not_finite() -> None:
    net = Net()
    for spoilt in (torch.nan, torch.inf):
        streamed, plain = (
            merged(
                net,
                {
                    name: loss * spoilt if name == "b" else loss
                    for name, loss in net.losses(batch(like=net)).items()
                },
                **options,
            )
            for options in ({"memory": "stream"}, {})
        )
        assert_same(streamed, plain, rtol=1e-9, atol=1e-12)


def test_report_and_existing_gradients() -> None:
    net = Net()
    optimizer = wrap(net, "online_pcgrad", memory="stream")
    plain = wrap(net, "online_pcgrad")
    reports = []
    for one in (plain, optimizer):
        net.zero_grad(set_to_none=True)
        for _ in range(2):
            one.backward(net.losses(batch(like=net)), order=ORDER)
        reports.append((one.report, grads(net)))
    (whole, twice), (streamed, also_twice) = reports
    assert_same(also_twice, twice, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(streamed.weights, whole.weights)
    torch.testing.assert_close(streamed.norms, whole.norms)
    assert streamed.cosines.isnan().sum() > 0  # no inner products of tasks were seen
    assert list(streamed.names or ()) == list(NAMES)


def test_random_orders_come_from_the_generator() -> None:
    net, found = Net(torch.float32), []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        one = wrap(net, "online_pcgrad", memory="stream", generator=generator)
        net.zero_grad(set_to_none=True)
        for _ in range(3):
            one.backward(net.losses(batch(like=net)))
        found.append(grads(net))
    assert_same(*found, rtol=0.0, atol=0.0)

"""What a CUDA graph cannot hold is refused while it is captured; here without a GPU, told that one is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import Net, batch, method, train, wrap
from torch import nn

import mtl_ops
from mtl_ops.optim.capturing import OBSTACLES

ASKED = "mtl_ops.ops.capture._stream_is_captured"

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a function of the step": (
        {"task_weights": lambda step: [1.0, 1.0 + step, 1.0]},
        r"`task_weights` should be numbers while a CUDA graph is captured, .*\. Found `task_weights = a function`",
    ),
    "weights_every": (
        {"weights_every": 2},
        r"`weights_every` should be 1 while .* measure, .*\. Found `weights_every = 2`",
    ),
    "fresh": (
        {"method": "momentum", "fresh": 2},
        r"`fresh` should be None while .* same tasks every time\. Found `fresh = 2`",
    ),
    "raise": (
        {"nonfinite": "raise"},
        r"`nonfinite` should be 'skip_task', .* wait for the device\. Found `nonfinite = 'raise'`",
    ),
    "skip_step": (
        {"nonfinite": "skip_step"},
        r"`nonfinite` should be .* or the inner optimizer fused, while",
    ),
}


def start(**options: Any) -> tuple[Net, Any]:
    net = Net()
    optimizer = wrap(net, **{"method": "upgrad", **options})
    train(net, optimizer, range(1))
    optimizer.zero_grad()
    return net, optimizer


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_a_graph_cannot_hold(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options, message = REFUSED[case]
    net, optimizer = start(**options)
    losses = net.losses(batch())
    with monkeypatch.context() as patch:
        patch.setattr(ASKED, lambda: True)
        with pytest.raises(RuntimeError, match=message):
            optimizer.backward(losses)
    assert all(param.grad is None for param in net.parameters())
    optimizer.backward(losses)  # no capture, no word
    assert net.neck.weight.grad is not None


def test_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", groups=[["a"], ["b", "c"]])
    optimizer.step(lambda: net.losses(batch()))
    monkeypatch.setattr(ASKED, lambda: True)
    with pytest.raises(RuntimeError, match=r"`groups` should be None while .*\. Found `groups = "):
        optimizer.step(lambda: net.losses(batch()))


def test_every_option_of_the_table_is_tested() -> None:
    tested = {"groups", *(option for options, _ in REFUSED.values() for option in options)}
    assert tested - {"method"} == {obstacle.option for obstacle in OBSTACLES}
    assert len(REFUSED) + 1 == len(OBSTACLES)


@pytest.mark.parametrize("name", ["upgrad", "gradvac", "moco", "famo", "graddrop"])
def test_others_are_not_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And take the same step as without a capture."""
    found = []
    for captured in (False, True):
        torch.manual_seed(0)
        net = Net()
        optimizer = wrap(net, method(name))
        train(net, optimizer, range(2))
        with monkeypatch.context() as patch:
            patch.setattr(ASKED, lambda: captured)  # noqa: B023
            train(net, optimizer, range(2, 5))
        found.append(torch.cat([param.detach().flatten() for param in net.parameters()]))
    assert torch.equal(*found)


def test_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    optimizer = wrap(net, "upgrad")
    losses = net.losses(batch())
    monkeypatch.setattr(ASKED, lambda: True)
    with pytest.raises(RuntimeError, match="A step should be taken before one is captured"):
        optimizer.backward(losses)
    with pytest.raises(RuntimeError, match=r"with `mtl_ops.backward`, in `state`"):
        mtl_ops.backward(losses, net.parameters(), "upgrad")


def test_sums_from_before_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = start()
    optimizer.accumulate(net.losses(batch(1)))
    with monkeypatch.context() as patch:
        patch.setattr(ASKED, lambda: True)
        with pytest.raises(RuntimeError, match="Found sums from before the capture"):
            optimizer.backward(net.losses(batch(2)))
        optimizer.zero_grad()
        optimizer.accumulate(net.losses(batch(1)))
        optimizer.backward(net.losses(batch(2)))
    assert net.neck.weight.grad is not None


@pytest.mark.parametrize("name", ["pcgrad", "gradvac", "random"])
def test_a_generator_that_is_not_registered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, rows = method(name), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    mtl_ops.merge(rows, chosen, losses=torch.ones(3))

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("not in capture mode")

    for draw in ("random_", "normal_"):
        monkeypatch.setattr(torch.Tensor, draw, refuse)
    with pytest.raises(RuntimeError, match=r"^not in capture mode"):
        mtl_ops.merge(rows, chosen, losses=torch.ones(3))
    chosen.generator = torch.Generator()
    monkeypatch.setattr(ASKED, lambda: True)
    message = r"`generator` should be registered with the CUDA graph .*register_generator_state"
    with pytest.raises(RuntimeError, match=message):
        mtl_ops.merge(rows, chosen, losses=torch.ones(3))


def test_sparse_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    table, head = nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2)
    params = [*table.parameters(), *head.parameters()]
    optimizer = wrap(params, "upgrad")

    def losses() -> list[torch.Tensor]:
        outputs = head(table(torch.arange(3)))
        return [outputs[:, 0].square().mean(), outputs[:, 1].abs().mean()]

    optimizer.backward(losses())
    optimizer.step()
    optimizer.zero_grad()
    monkeypatch.setattr(ASKED, lambda: True)
    with pytest.raises(RuntimeError, match="Gradients should be dense while a CUDA graph"):
        optimizer.backward(losses())

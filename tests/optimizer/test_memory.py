"""``memory="stream"``: the same step, with fewer gradients at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import (
    NAMES,
    Drawn,
    Fixed,
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    grads,
    method,
    train,
    wrap,
)
from torch import Tensor

import mtl_ops
import mtl_ops.gradients.piecewise
from mtl_ops import MultiTaskOptimizer
from mtl_ops.merging.report import Report
from mtl_ops.methods import Method

MEMORIES = (None, "stream")


@pytest.fixture(params=[1, 40, 2**20], ids=["each by itself", "several", "all in one"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many elements make a piece."""
    monkeypatch.setattr(mtl_ops.gradients.piecewise, "PIECE", request.param)


def streams(name: str) -> bool:
    """Whether a method takes one backward a task and lets go of the gradients."""
    return method(name).needs != "losses" and not method(name).tracks


def assert_same_report(one: Report, two: Report) -> None:
    """All that a user can read of it."""
    assert one.names == two.names
    for field in ("weights", "gram", "norms", "cosines", "losses", "skipped"):
        assert_same([getattr(one, field)], [getattr(two, field)], rtol=1e-6, atol=1e-9)
    assert_same([one.clip_scale], [two.clip_scale])
    assert_equal([one.times_skipped], [two.times_skipped])


def assert_same_steps(make: Callable[[], Method], steps: int = 3, **options: Any) -> None:
    """Some steps with and without, whose last gradients and reports are the same to rounding."""
    found = []
    for memory in MEMORIES:
        torch.default_generator.manual_seed(0)
        net = Net()
        optimizer = wrap(net, make(), memory=memory, **options)
        train(net, optimizer, range(steps))
        found.append((grads(net), optimizer.report, list(net.parameters())))
    (plain, report, params), (streamed, other, others) = found
    assert_same(plain, streamed)
    assert_same(params, others)
    assert_same_report(report, other)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task"])
@pytest.mark.parametrize("granularity", ["model", "tensor"])
# online_pcgrad forms no inner products then: tests/optimizer/test_online.py has what it does
@pytest.mark.parametrize(
    "name", [name for name in every_method() if streams(name) and name != "online_pcgrad"]
)
@pytest.mark.usefixtures("piece")
def test_every_method(name: str, granularity: str, nonfinite: str) -> None:
    options = {"granularity": granularity, "nonfinite": nonfinite}
    assert_same_steps(lambda: method(name), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": 0.1},
        {"max_task_norm": 0.3},
        {"clip_value": 0.01},
        {"max_norm": 0.1, "max_task_norm": 0.3, "clip_value": 0.01, "granularity": "tensor"},
        {"task_weights": {"a": 2.0, "c": 0.5}},
        {"task_weights": {"c": 0.0}},
        {"nonfinite": "raise", "granularity": "tensor"},
        {"nonfinite": "skip_step"},
        {"weights_every": 2},
        {"grad_dtype": torch.float32, "nonfinite": "propagate"},
        {"grad_dtype": torch.float64},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["upgrad", "pcgrad", "median", "graddrop"])
@pytest.mark.usefixtures("small_pieces")
def test_with_other_options(name: str, options: dict[str, Any]) -> None:
    if "weights_every" in options and method(name).needs != "gram":
        pytest.skip("needs the whole gradient of every task in every step")
    assert_same_steps(lambda: method(name), **options)


@pytest.mark.parametrize("make", [Fixed, Drawn], ids=["stateless", "random"])
@pytest.mark.usefixtures("small_pieces")
def test_methods_of_users(make: Callable[[], Method]) -> None:
    assert_same_steps(make, granularity="tensor", nonfinite="propagate")


@pytest.mark.usefixtures("small_pieces")
def test_methods_that_need_losses_with_clipped_gradients() -> None:
    for name in ("equal", "dwa", "uncertainty"):
        assert_same_steps(lambda name=name: method(name), max_task_norm=0.3)  # type: ignore[misc]


@pytest.mark.parametrize("together", [True, False], ids=["heads together", "heads apart"])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task"])
@pytest.mark.usefixtures("piece")
def test_groups_of_parameters(nonfinite: str, together: bool) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        heads = [net.heads] if together else list(net.heads.values())
        groups = [{"params": part.parameters()} for part in (net.trunk, net.neck, *heads)]
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(groups, lr=0.05),
            "mgda",
            granularity="group",
            nonfinite=nonfinite,  # type: ignore[arg-type]
            memory=memory,  # type: ignore[arg-type]
        )
        train(net, optimizer, range(2))
        found.append((grads(net), optimizer.report))
    assert_same(found[0][0], found[1][0])
    assert_same_report(found[0][1], found[1][1])


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task", "skip_step"])
@pytest.mark.parametrize("broken", NAMES)
@pytest.mark.usefixtures("small_pieces")
def test_a_gradient_that_is_not_finite(broken: str, nonfinite: str, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", nonfinite=nonfinite, granularity=granularity, memory=memory)
        for factor in (1.0, torch.inf, 1.0):
            losses = net.losses(batch())
            losses[broken] = losses[broken] * factor
            optimizer.zero_grad()
            optimizer.backward(losses)
            optimizer.step()
        found.append((list(net.parameters()), optimizer.report))
    assert_same(found[0][0], found[1][0])
    assert_equal([found[0][1].times_skipped], [found[1][1].times_skipped])


@pytest.mark.usefixtures("small_pieces")
def test_adds_to_what_is_there() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", memory=memory)
        optimizer.backward(net.losses(batch(0)))
        kept = [param.grad for param in net.parameters()]
        optimizer.backward(net.losses(batch(1)))
        assert all(a is p.grad for a, p in zip(kept, net.parameters(), strict=True))
        found.append(grads(net))
    assert_same(*found)


@pytest.mark.usefixtures("small_pieces")
def test_tasks_that_are_absent() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", tasks=NAMES, memory=memory)
        for absent in (["c"], ["a"], ["a", "c"], ["b", "c"], []):
            losses = {
                name: loss for name, loss in net.losses(batch()).items() if name not in absent
            }
            optimizer.zero_grad()
            optimizer.backward(losses)
            optimizer.step()
        found.append(list(net.parameters()))
    assert_same(*found)


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("scaled_by", [2.0**8, 2.0**126])
@pytest.mark.usefixtures("small_pieces")
def test_with_a_grad_scaler(scaled_by: float, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        net = Net(torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=scaled_by)
        options = {"granularity": granularity, "max_task_norm": 0.3, "grad_scaler": scaler}
        optimizer = wrap(net, "upgrad", memory=memory, **options)
        for step in range(2):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step, like=net)))
            scaler.step(optimizer)
            scaler.update()
        found.append(([*net.parameters()], scaler.get_scale()))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert (found[0][1] < scaled_by) == (scaled_by > 2.0**8)


@pytest.mark.usefixtures("small_pieces")
def test_tasks_that_take_turns() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", groups=[["a"], ["b", "c"]], memory=memory)
        for step in range(2):
            optimizer.step(lambda net=net, step=step: net.losses(batch(step)))  # type: ignore[misc]
        found.append(list(net.parameters()))
    assert_same(*found)


@pytest.mark.parametrize("named", [0, 1, 3])
@pytest.mark.usefixtures("small_pieces")
def test_named_shared_parameters(named: int) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        shared = list(net.parameters())[:named]
        optimizer = wrap(net, "mgda", shared=shared, memory=memory, nonfinite="propagate")
        optimizer.backward(net.losses(batch()))
        found.append(grads(net))
    assert_same(*found)


# ---- methods of users -----------------------------------------------------------------------------


class Segmentwise(Method):
    """Weights that depend on losses, are found by a derivative, and must not see NaN."""

    name = "segmentwise"
    segmentwise = True

    def __init__(self, uses_losses: bool) -> None:
        self.uses_losses = uses_losses

    def weights(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:  # type: ignore[override]
        torch.linalg.eigh(gram)
        w = torch.ones_like(gram[..., 0], requires_grad=True)
        (slope,) = torch.autograd.grad((w.square() * gram.diagonal(dim1=-2, dim2=-1)).sum(), w)
        return slope if losses is None else slope * losses.nan_to_num(5.0)


@pytest.mark.parametrize("uses_losses", [False, True])
@pytest.mark.usefixtures("small_pieces")
def test_a_segmentwise_method(uses_losses: bool) -> None:
    options = {"granularity": "tensor", "nonfinite": "propagate"}
    assert_same_steps(lambda: Segmentwise(uses_losses), **options)


@pytest.mark.usefixtures("small_pieces")
def test_a_method_is_not_asked_about_what_is_an_error() -> None:
    net = Net()
    options = {"granularity": "tensor", "nonfinite": "raise"}
    optimizer = wrap(net, Segmentwise(False), memory="stream", **options)
    losses = net.losses(batch())
    losses["c"] = losses["c"] * torch.inf
    with pytest.raises(RuntimeError, match="The gradient of loss 'c' is not finite"):
        optimizer.backward(losses)
    assert grads(net) == [None] * len(grads(net))

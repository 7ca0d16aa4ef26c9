"""Losses as a dict, a sequence or a tensor; absent tasks; weights of tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from multitask import NAMES, Fixed, Net, assert_equal, assert_same, batch, grads, wrap
from torch import Tensor

FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "dict": lambda losses: losses,
    "OrderedDict": OrderedDict,
    "mapping": MappingProxyType,
    "list": lambda losses: list(losses.values()),
    "tuple": lambda losses: tuple(losses.values()),
    "tensor": lambda losses: torch.stack(list(losses.values())),
    "tensors of shape (1,)": lambda losses: [loss.reshape(1) for loss in losses.values()],
    "tensors of shape (1, 1)": lambda losses: {k: v.reshape(1, 1) for k, v in losses.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_gradients(form: str, device: torch.device) -> None:
    reference, net = Net(device=device), Net(device=device)
    wrap(reference, Fixed()).backward(reference.losses(batch(like=reference)))
    optimizer = wrap(net, Fixed())
    optimizer.backward(FORMS[form](net.losses(batch(like=net))))
    assert_same(grads(net), grads(reference))
    assert optimizer.report.losses.shape == (3,)
    named = form in ("dict", "OrderedDict", "mapping", "tensors of shape (1, 1)")
    assert optimizer.report.names == (NAMES if named else None)


def test_order_of_a_dict_is_that_of_the_first_call() -> None:
    net = Net()
    optimizer = wrap(net, Fixed())
    optimizer.backward(net.losses(batch()))
    first = grads(net)
    optimizer.zero_grad()
    optimizer.backward(dict(reversed(net.losses(batch()).items())))
    assert_equal(grads(net), first)


def test_order_of_a_dict_is_that_of_tasks() -> None:
    net, other = Net(), Net()
    wrap(net, Fixed(0.5, 2.0, 0.25)).backward(net.losses(batch()))
    wrap(other, Fixed(0.25, 2.0, 0.5), tasks=("c", "b", "a")).backward(other.losses(batch()))
    assert_same(grads(net), grads(other))


def test_sequence_takes_the_names_of_tasks() -> None:
    net = Net()
    optimizer = wrap(net, tasks=NAMES)
    optimizer.backward(list(net.losses(batch()).values()))
    assert optimizer.report.names == NAMES


class TestAbsentTasks:
    @pytest.mark.filterwarnings("ignore:No loss reaches")
    @pytest.mark.parametrize("absent", [["a"], ["b"], ["a", "c"]], ids=str)
    @pytest.mark.parametrize("how", ["None", "missing"])
    def test_equals_a_problem_without_them(self, absent: list[str], how: str) -> None:
        net, other = Net(), Net()
        optimizer = wrap(net, "mean", tasks=NAMES)
        losses: dict[str, Tensor | None] = dict(net.losses(batch()))
        for name in absent:
            losses[name] = None
            if how == "missing":
                del losses[name]
        optimizer.backward(losses)
        left = {k: v for k, v in other.losses(batch()).items() if k not in absent}
        wrap(other, "mean").backward(left)
        assert_same(grads(net), grads(other))

    def test_report_says_so(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", tasks=NAMES)
        optimizer.backward({**net.losses(batch()), "b": None})
        report = optimizer.report
        assert report.losses.isnan().tolist() == [False, True, False]
        assert report.weights.tolist() == [[0.5, 0.0, 0.5]]
        assert report.norms[1] == 0
        assert report.skipped.tolist() == [False, False, False]
        assert report.times_skipped.tolist() == [0, 0, 0]

    def test_head_of_an_absent_task_gets_no_gradient(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", tasks=NAMES)
        optimizer.backward({**net.losses(batch()), "b": None})
        assert net.heads["b"].weight.grad is None
        assert net.heads["a"].weight.grad is not None

    @pytest.mark.filterwarnings("ignore:No loss reaches")
    def test_in_a_sequence(self) -> None:
        net, other = Net(), Net()
        first, _, third = net.losses(batch()).values()
        wrap(net, Fixed()).backward([first, None, third])
        wrap(other, Fixed(0.5, 0.25)).backward(
            [loss for name, loss in other.losses(batch()).items() if name != "b"]
        )
        assert_same(grads(net), grads(other))

    def test_in_the_first_batch(self) -> None:
        net = Net()
        optimizer = wrap(net, tasks=NAMES)
        optimizer.backward({"c": net.losses(batch())["c"]})
        optimizer.backward(net.losses(batch()))
        assert optimizer.report.names == NAMES


class TestTaskWeights:
    @pytest.mark.parametrize(
        "weights",
        [
            {"a": 2.0, "c": 0.5},
            [2.0, 1.0, 0.5],
            (2, 1, 0.5),
            lambda step: {"a": 2.0, "c": 0.5},
            lambda step: [2.0, 1.0, 0.5],
        ],
        ids=["dict", "list", "tuple", "function to dict", "function to list"],
    )
    def test_are_factors_of_the_gradients(self, weights: Any) -> None:
        net, other = Net(), Net()
        wrap(net, "mean", task_weights=weights).backward(net.losses(batch()))
        losses = other.losses(batch())
        wrap(other, "mean").backward([2.0 * losses["a"], losses["b"], 0.5 * losses["c"]])
        assert_same(grads(net), grads(other))

    def test_zero_leaves_the_task_out(self) -> None:
        net, other = Net(), Net()
        optimizer = wrap(net, "mean", task_weights={"b": 0.0})
        optimizer.backward(net.losses(batch()))
        assert optimizer.report.weights.tolist() == [[0.5, 0.0, 0.5]]
        wrap(other, "mean", tasks=NAMES).backward({**other.losses(batch()), "b": None})
        assert_same(grads(net), grads(other))
        assert optimizer.report.losses.isfinite().all()

    @pytest.mark.filterwarnings("error")
    def test_zero_costs_no_backward(self) -> None:
        net = Net()
        calls: list[str] = []
        losses = net.losses(batch())
        for name, loss in losses.items():
            loss.register_hook(lambda _, n=name: calls.append(n))
        wrap(net, "mean", task_weights={"b": 0.0}).backward(losses)
        assert calls == ["a", "c"]

    def test_zero_for_all_that_are_present_is_a_zero_gradient(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", task_weights={"b": 0.0}, tasks=NAMES)
        optimizer.backward({"b": net.losses(batch())["b"]})
        assert not net.trunk[0].weight.grad.any()
        optimizer.step()

    def test_function_gets_the_number_of_steps_taken(self) -> None:
        seen: list[int] = []

        def weights(step: int) -> list[float]:
            seen.append(step)
            return [1.0, 1.0, float(step)]

        net = Net()
        optimizer = wrap(net, "sum", task_weights=weights)
        for _ in range(3):
            for _ in range(2):  # two micro-batches a step
                optimizer.backward(net.losses(batch()))
            assert optimizer.report.weights[0, 2] == seen[-1]
            optimizer.step()
            optimizer.zero_grad()
        assert seen == [0, 0, 1, 1, 2, 2]

    def test_of_an_absent_task_do_not_matter(self) -> None:
        net, other = Net(), Net()
        wrap(net, "mean", tasks=NAMES, task_weights={"b": 5.0}).backward(
            {**net.losses(batch()), "b": None}
        )
        wrap(other, "mean", tasks=NAMES).backward({**other.losses(batch()), "b": None})
        assert_equal(grads(net), grads(other))


@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_one_task_is_plain_training() -> None:
    net, bare = Net(), Net()
    optimizer = wrap(net, "mean", max_norm=0.5)
    optimizer.backward({"b": net.losses(batch())["b"]})
    bare.losses(batch())["b"].backward()
    torch.nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
    assert_same(grads(net), grads(bare), rtol=1e-5, atol=1e-9)


@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_one_tensor_as_two_losses() -> None:
    net, bare = Net(), Net()
    loss = net.losses(batch())["c"]
    wrap(net, "sum").backward([loss, loss])
    (2 * bare.losses(batch())["c"]).backward()
    assert_same(grads(net), grads(bare))


def test_losses_with_graphs_of_their_own() -> None:
    net, bare = Net(), Net()
    wrap(net, "sum").backward({name: net.losses(batch())[name] for name in NAMES})
    sum(bare.losses(batch()).values()).backward()
    assert_same(grads(net), grads(bare))


def test_losses_of_different_dtypes() -> None:
    net, other = Net(torch.float32), Net(torch.float32)
    optimizer = wrap(net, "mean")
    losses = net.losses(batch(like=net))
    optimizer.backward({**losses, "a": losses["a"].double(), "c": losses["c"].bfloat16()})
    wrap(other, "mean").backward(other.losses(batch(like=other)))
    assert_same(grads(net), grads(other), rtol=2e-2, atol=1e-3)


def test_loss_that_is_a_parameter_itself() -> None:
    a, b = (torch.tensor(value, requires_grad=True) for value in (2.0, 3.0))
    wrap([a, b], "sum").backward([a, a * b])
    assert (a.grad.item(), b.grad.item()) == (4.0, 2.0)

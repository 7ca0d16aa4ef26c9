"""Some tasks a step: which are differentiated, what is merged, and what such a step has in common with others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_equal, assert_same, batch, grads, wrap
from torch import Tensor

import mtl_ops
from mtl_ops.methods import Momentum


class Reference:
    """Averages of each task's gradient of all parameters, heads too, with zeros where it reaches none."""

    def __init__(self, method: str, beta: float) -> None:
        self.method, self.beta = mtl_ops.methods.get(method), beta
        self.averages: dict[str, list[Tensor]] = {}
        self.reach: dict[str, list[bool]] = {}
        self.times: dict[str, int] = {}

    def see(self, net: Net, losses: dict[str, Tensor], name: str, factor: float = 1.0) -> None:
        found = torch.autograd.grad(
            losses[name], list(net.parameters()), retain_graph=True, allow_unused=True
        )
        self.reach[name] = [one is not None for one in found]
        new = [
            torch.zeros_like(param) if one is None else factor * one
            for one, param in zip(found, net.parameters(), strict=True)
        ]
        t = self.times[name] = self.times.get(name, 0) + 1
        old = self.averages.get(name, new)
        rate = (1 - self.beta) / (1 - self.beta**t)
        self.averages[name] = [a + rate * (b - a) for a, b in zip(old, new, strict=True)]

    def merged(self) -> list[Tensor | None]:
        """Shared parameters with the method's weights, others with that of their own task."""
        names = [name for name in NAMES if name in self.averages]
        counts = [sum(self.reach[n][p] for n in names) for p in range(len(self.reach[names[0]]))]
        rows = torch.stack(
            [
                torch.cat(
                    [a.flatten() for a, c in zip(self.averages[n], counts, strict=True) if c > 1]
                )
                if max(counts) > 1
                else torch.ones(1, dtype=torch.float64)
                for n in names
            ]
        )
        weights = self.method.weights(rows @ rows.T).tolist()
        result: list[Tensor | None] = []
        for p, count in enumerate(counts):
            parts = [
                (w if count > 1 else 1.0) * self.averages[n][p]
                for n, w in zip(names, weights, strict=True)
                if self.reach[n][p]
            ]
            result.append(torch.stack(parts).sum(dim=0) if parts else None)
        return result


def counted(net: Net) -> dict[str, int]:
    """Counts the backwards that pass through each head."""
    counts = dict.fromkeys(NAMES, 0)
    for name, head in net.heads.items():

        def hook(_: Tensor, name: str = name) -> None:
            counts[name] += 1

        head.bias.register_hook(hook)
    return counts


@pytest.mark.parametrize("method", ["config", "mgda"])
def test_the_averages_of_all_are_merged(method: str) -> None:
    net, reference = Net(), Reference(method, 0.5)
    optimizer = wrap(net, Momentum(method=method, beta=0.5), lr=0.01, fresh=1)
    counts = counted(net)
    for step in range(7):
        losses = net.losses(batch(step))
        reference.see(net, losses, NAMES[step % 3])
        optimizer.zero_grad()
        before = dict(counts)
        optimizer.backward(losses)
        assert [counts[n] - before[n] for n in NAMES] == [int(t == step % 3) for t in range(3)]
        assert_same(grads(net), reference.merged())
        report = optimizer.report
        assert report.losses is not None
        assert report.losses.isfinite().all()
        optimizer.step()
    assert optimizer.report.gram is not None
    assert optimizer.report.gram.diagonal(dim1=1, dim2=2).min() > 0.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fresh": 2}, ["ab", "ac", "bc"]),
        ({"fresh": lambda step: ["c", NAMES[step]]}, ["ac", "bc", "c"]),
        ({}, ["abc", "abc", "abc"]),
        ({"fresh": 5}, ["abc", "abc", "abc"]),
    ],
)
def test_which_are_fresh(options: dict[str, Any], expected: list[str]) -> None:
    net = Net()
    optimizer, counts = wrap(net, "momentum", **options), counted(net)
    for step, wanted in enumerate(expected):
        counts.update(dict.fromkeys(NAMES, 0))
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
        assert "".join(name for name in NAMES if counts[name]) == wanted


def test_random_ones_are_fair_and_the_generator_s() -> None:
    net = Net()
    drawn = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        optimizer = wrap(net, "momentum", fresh=1, fresh_order="random", generator=generator)
        counts = counted(net)
        order = []
        for step in range(30):
            before = dict(counts)
            optimizer.backward(net.losses(batch(step)))
            optimizer.step()
            order += [name for name in NAMES if counts[name] > before[name]]
        drawn.append("".join(order))
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 30
    assert min(drawn[0].count(name) for name in NAMES) > 3


def test_absent_tasks_and_tasks_of_weight_zero_have_no_turn() -> None:
    net = Net()
    optimizer, counts = wrap(net, "momentum", fresh=1, tasks=NAMES), counted(net)
    losses = net.losses(batch(0))
    optimizer.backward({"b": losses["b"], "c": losses["c"]})
    assert counts == {"a": 0, "b": 1, "c": 0}
    optimizer.task_weights = {"a": 1.0, "b": 0.0, "c": 1.0}
    optimizer.step()
    optimizer.backward(net.losses(batch(1)))  # b's turn
    assert counts == {"a": 0, "b": 1, "c": 1}
    weights = optimizer.report.weights
    assert weights is not None
    assert weights[0, 1] == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": 0.01},
        {"granularity": "tensor"},
        {"batched": True},
        {"grad_dtype": torch.float32},
        {"task_weights": {"a": 2.0}, "max_task_norm": 0.1},
        {"normalise": "l2"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_without_momentum_it_is_the_step_of_its_method(options: dict[str, Any]) -> None:
    found = []
    for method in ("mgda", Momentum(method="mgda", beta=0.0)):
        net = Net()
        optimizer = wrap(net, method, **options)
        for step in range(2):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step)))
        found.append(grads(net))
    assert_same(*found, rtol=1e-6, atol=1e-9)


def test_micro_batches_are_of_the_same_tasks() -> None:
    found = []
    for parts in (1, 2):
        net = Net()
        optimizer, counts = wrap(net, "momentum", fresh=1, lr=0.1), counted(net)
        for step in range(4):
            data = batch(step)
            optimizer.zero_grad()
            if parts == 2:
                half = net.losses(data[:4])
                optimizer.accumulate({name: loss / 2 for name, loss in half.items()})
                half = net.losses(data[4:])
                optimizer.backward({name: loss / 2 for name, loss in half.items()})
            else:
                optimizer.backward(net.losses(data))
            optimizer.step()
        assert sum(counts.values()) == 4 * parts
        found.append(list(net.parameters()))
    assert_same(*found)


def test_a_grad_scaler_changes_nothing() -> None:
    found = []
    for scaled in (False, True):
        net = Net()
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        method = Momentum(method="mgda", second="pseudo_adam")
        options = {"grad_scaler": scaler} if scaled else {}
        optimizer = wrap(net, method, fresh=1, clip_value=0.5, **options)
        for step in range(5):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step)))
            if scaled:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
        found.append(list(net.parameters()))
    assert_same(*found)


def test_averages_are_stored_in_grad_dtype() -> None:
    found = []
    for dtype in (None, torch.bfloat16):
        net = Net(torch.float32)
        method = Momentum(method="sum")
        optimizer = wrap(net, method, fresh=1, grad_dtype=dtype)
        for step in range(6):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step, like=net)))
        kinds = {
            one.dtype for column in method.memory.values() for one in column if one is not None
        }
        assert kinds == {dtype or torch.float32}
        found.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert 0.0 < (found[0] - found[1]).norm() < 0.02 * found[0].norm()


def test_a_task_whose_gradient_is_lost_is_said_to_be() -> None:
    net = Net()
    optimizer = wrap(net, Momentum(method="mgda"), fresh=2)
    for step in range(3):
        losses = net.losses(batch(step))
        if step == 2:  # b and c
            losses["b"] = losses["b"] * torch.nan
        optimizer.zero_grad()
        optimizer.backward(losses)
        optimizer.step()
    report = optimizer.report
    assert report.skipped is not None
    assert report.times_skipped is not None
    assert report.skipped.tolist() == [False, True, False]
    assert report.times_skipped.tolist() == [0, 1, 0]
    before = [p.clone() for p in net.parameters()]
    optimizer.zero_grad()
    optimizer.backward({n: loss * torch.inf for n, loss in net.losses(batch(4)).items()})
    optimizer.step()
    assert_equal(net.parameters(), before)


def test_a_checkpoint_goes_on_where_it_was() -> None:
    runs = []
    for _ in range(2):
        net = Net()
        runs.append((net, wrap(net, Momentum(second="pseudo_adam"), fresh=1)))
    (net, optimizer), (other_net, other) = runs
    for step in range(4):
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
    other_net.load_state_dict(net.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, wrapped in runs:
        for step in range(4, 7):
            wrapped.zero_grad()
            wrapped.backward(one.losses(batch(step)))
            wrapped.step()
    assert_equal(net.parameters(), other_net.parameters())


def test_the_function_counts_its_steps_in_the_state() -> None:
    net, counts, state = Net(), None, {}  # type: ignore[var-annotated]
    counts = counted(net)
    for step in range(3):
        mtl_ops.backward(
            net.losses(batch(step)), net.parameters(), "momentum", state=state, fresh=1
        )
    assert counts == dict.fromkeys(NAMES, 1)
    with pytest.raises(ValueError, match="`state` should be given with `fresh`"):
        mtl_ops.backward(net.losses(batch(0)), net.parameters(), "momentum", fresh=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fresh": 0}, "`fresh` should be a positive integer"),
        ({"fresh": "a"}, "`fresh` should be a positive integer"),
        (
            {"fresh_order": "random"},
            "`fresh_order` should be given with a number of tasks in `fresh`",
        ),
        ({"fresh": 1, "fresh_order": "loss"}, "`fresh_order` should be one of"),
        (
            {"groups": [["a"], ["b"]]},
            "`method` should be another with `groups`, each of whose turns",
        ),
        ({"fresh": 1, "method": "mgda"}, "`fresh` should be None with method 'mgda', which merges"),
        (
            {"max_norm": 1.0, "method": Momentum(second="pseudo_adam")},
            "`max_norm` should be None with method 'momentum', whose step of Adam",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(Net(), **{"method": "momentum", **options})


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (["d"], ValueError, r"should answer with tasks out of \['a', 'b', 'c'\]. Found 'd'"),
        (["a"], ValueError, "should answer with a task that is there"),
        ([], ValueError, "should answer with a task that is there"),
        ("b", TypeError, "should answer with a sequence of tasks. Found str"),
    ],
)
def test_what_a_function_may_not_answer(answer: Any, error: type, message: str) -> None:
    net = Net()
    optimizer = wrap(net, "momentum", fresh=lambda _: answer, tasks=NAMES)
    losses = net.losses(batch(0))
    del losses["a"]
    with pytest.raises(error, match=message):
        optimizer.backward(losses)

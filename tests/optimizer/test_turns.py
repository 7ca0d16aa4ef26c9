"""``groups``, ``order`` and ``closing_joint``: joint, alternating and hybrid optimization."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer

TASKS = ("a", "b", "c")


class Net(nn.Module):
    """A trunk and a head for each task; counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 6)
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in TASKS})
        self.calls = 0

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        features = torch.tanh(self.trunk(x))
        return {
            task: (head(features) - k).square().mean()
            for k, (task, head) in enumerate(self.heads.items())
        }


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.05)


def batches(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 4, generator=generator) for _ in range(count)]


def train(net: Net, optimizer: MultiTaskOptimizer) -> list[Tensor]:
    for x in batches():
        optimizer.step(lambda x=x: net.losses(x))
    return [param.detach().clone() for param in net.parameters()]


def by_hand(net: Net, update: Callable[[torch.optim.Optimizer, Tensor, int], None]) -> list[Tensor]:
    inner = adam(net)
    for step, x in enumerate(batches()):
        update(inner, x, step)
    return [param.detach().clone() for param in net.parameters()]


def same(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_one_group_is_joint_optimization(net: Net) -> None:
    twin = copy.deepcopy(net)
    joint = MultiTaskOptimizer(adam(twin), "cagrad")
    for x in batches():
        joint.zero_grad()
        joint.backward(twin.losses(x))
        joint.step()
    got = train(net, MultiTaskOptimizer(adam(net), "cagrad", groups=[TASKS]))
    assert same(got, [param.detach() for param in twin.parameters()])


def test_one_group_a_task_is_alternating_optimization(net: Net) -> None:
    twin = copy.deepcopy(net)

    def update(inner: torch.optim.Optimizer, x: Tensor, step: int) -> None:
        for task in ("c", "a", "b"):
            inner.zero_grad()
            twin.losses(x)[task].backward()
            inner.step()

    want = by_hand(twin, update)
    got = train(net, MultiTaskOptimizer(adam(net), "sum", groups=[["c"], ["a"], ["b"]]))
    assert same(got, want)


def test_a_hybrid_merges_each_group_and_closes_with_all(net: Net) -> None:
    twin = copy.deepcopy(net)

    def update(inner: torch.optim.Optimizer, x: Tensor, step: int) -> None:
        for group in (("a", "b"), ("c",), TASKS):
            inner.zero_grad()
            losses = twin.losses(x)
            chosen = [losses[task] if task in group else None for task in TASKS]
            mtl_ops.backward(chosen, list(twin.parameters()), "upgrad")
            inner.step()

    want = by_hand(twin, update)
    optimizer = MultiTaskOptimizer(
        adam(net), "upgrad", groups=[["a", "b"], ["c"]], closing_joint=True
    )
    assert same(train(net, optimizer), want)
    assert net.calls == 3 * len(batches())


def order_of(net: Net, optimizer: MultiTaskOptimizer, steps: int = 1) -> list[str]:
    """Whose turn it was, read off the heads that have a gradient when the inner optimizer steps."""
    seen: list[str] = []

    def hook(*_: Any) -> None:
        seen.extend(task for task in TASKS if net.heads[task].weight.grad is not None)

    handle = optimizer.register_step_pre_hook(hook)
    for x in batches(steps):
        optimizer.step(lambda x=x: net.losses(x))
    handle.remove()
    return seen


SINGLES = [["a"], ["b"], ["c"]]


def test_a_function_decides_on_the_order_by_step_and_losses(net: Net) -> None:
    given: list[tuple[int, Tensor]] = []

    def order(step: int, losses: Tensor) -> list[int]:
        given.append((step, losses))
        return [2, 0, 1] if step == 0 else [1, 2, 0]

    optimizer = MultiTaskOptimizer(adam(net), groups=SINGLES, order=order)
    assert "".join(order_of(net, optimizer, 2)) == "cabbca"
    assert [step for step, _ in given] == [0, 1]
    assert given[0][1].isnan().all()
    assert given[1][1].isfinite().all()
    assert len(given[1][1]) == 3


def test_the_largest_loss_has_the_first_turn(net: Net) -> None:
    optimizer = MultiTaskOptimizer(adam(net), groups=SINGLES, order="loss")
    assert "".join(order_of(net, optimizer)) == "abc"
    # The targets are 0, 1 and 2, so the third is furthest away.
    assert "".join(order_of(net, optimizer)) == "cba"


def test_a_random_order_is_of_the_seed_and_the_step(net: Net) -> None:
    def drawn(seed: int) -> str:
        torch.manual_seed(seed)
        fresh = MultiTaskOptimizer(adam(net), groups=SINGLES, order="random")
        return "".join(order_of(net, fresh, 12))

    one, again, other = drawn(3), drawn(3), drawn(4)
    assert one == again != other
    turns = {one[k : k + 3] for k in range(0, len(one), 3)}
    assert len(turns) > 2
    assert all(sorted(turn) == list(TASKS) for turn in turns)


@pytest.mark.parametrize("order", ["random", "loss"])
def test_a_resumed_run_goes_on_bit_for_bit(net: Net, order: Any, tmp_path: Any) -> None:
    def make(model: Net) -> MultiTaskOptimizer:
        generator = torch.Generator().manual_seed(5)
        return MultiTaskOptimizer(
            adam(model), "pcgrad", groups=SINGLES, order=order, generator=generator
        )

    optimizer = make(net)
    data = batches()
    for x in data[:3]:
        optimizer.step(lambda x=x: net.losses(x))
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "state")
    twin = Net()
    resumed = make(twin)
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    for x in data[3:]:
        optimizer.step(lambda x=x: net.losses(x))
        resumed.step(lambda x=x: twin.losses(x))
    assert same([*net.parameters()], [*twin.parameters()])


def test_a_group_whose_tasks_are_absent_has_no_turn(net: Net) -> None:
    optimizer = MultiTaskOptimizer(adam(net), tasks=TASKS, groups=SINGLES)
    before = net.heads["b"].weight.clone()
    counted: list[int] = []
    optimizer.register_step_post_hook(lambda *_: counted.append(1))
    x = batches(1)[0]
    optimizer.step(lambda: {**net.losses(x), "b": None})
    assert len(counted) == 2
    assert torch.equal(net.heads["b"].weight, before)


def test_losses_without_names_are_grouped_by_place(net: Net) -> None:
    optimizer = MultiTaskOptimizer(adam(net), groups=[[2], [0, 1]])
    x = batches(1)[0]
    first = optimizer.step(lambda: list(net.losses(x).values()))
    assert isinstance(first, list)
    assert len(first) == 3
    assert optimizer.report.weights is not None
    assert optimizer.report.weights[0].tolist()[2] == 0.0


def test_steps_are_counted_whatever_the_number_of_turns(net: Net) -> None:
    seen: list[int] = []

    def weights(step: int) -> list[float]:
        seen.append(step)
        return [1.0, 1.0, 1.0]

    optimizer = MultiTaskOptimizer(adam(net), groups=SINGLES, task_weights=weights)
    order_of(net, optimizer, 2)
    assert seen == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"groups": []}, ValueError, "at least one group"),
        ({"groups": [["a"], []]}, ValueError, "each of their tasks once"),
        ({"groups": [["a", "a"]]}, ValueError, "each of their tasks once"),
        ({"groups": ["abc"]}, TypeError, "sequences of tasks"),
        ({"groups": [["a", "b"]], "tasks": TASKS}, ValueError, "Found none for 'c'"),
        ({"groups": [["d"]], "tasks": TASKS}, ValueError, "Found 'd'"),
        ({"order": "random"}, ValueError, "used with `groups`"),
        ({"closing_joint": True}, ValueError, "used with `groups`"),
        ({"groups": SINGLES, "order": "worst"}, ValueError, "fixed, random, loss"),
        ({"groups": SINGLES, "gram_on": "features"}, ValueError, "`gram_on` should be left out"),
    ],
)
def test_bad_groups_are_named(net: Net, options: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        MultiTaskOptimizer(adam(net), **options)


def test_groups_want_a_closure_and_nothing_else(net: Net) -> None:
    optimizer = MultiTaskOptimizer(adam(net), groups=SINGLES)
    x = batches(1)[0]
    before = [param.detach().clone() for param in net.parameters()]
    for call in (
        lambda: optimizer.step(),
        lambda: optimizer.backward(net.losses(x)),
        lambda: optimizer.accumulate(net.losses(x)),
    ):
        with pytest.raises(RuntimeError, match="closure"):
            call()
    optimizer = MultiTaskOptimizer(adam(net), groups=[["a"], ["b"]])
    with pytest.raises(ValueError, match="Found none for 'c'"):
        optimizer.step(lambda: net.losses(x))
    optimizer = MultiTaskOptimizer(adam(net), groups=SINGLES, order=lambda step, losses: [0, 1, 1])
    with pytest.raises(ValueError, match="each of the numbers 0 to 2 once"):
        optimizer.step(lambda: net.losses(x))
    assert same(before, [param.detach() for param in net.parameters()])

"""What is measured in factors, in which backwards, and that it is decided once."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from factor_models import make
from factor_steps import by_factors, by_rows
from multitask import Fixed, assert_same, grads
from torch import Tensor, nn

from mtl_ops.gradients.factored import find
from mtl_ops.gradients.factored.cost import cost_of
from mtl_ops.gradients.factored.cut import find_cut
from mtl_ops.gradients.factored.find import PLANS, Factoring
from mtl_ops.gradients.factored.plan import make_plan
from mtl_ops.gradients.factored.products import Size
from mtl_ops.gradients.factored.walk import Walk, walk
from mtl_ops.gradients.tasks import read_losses
from mtl_ops.merging.rules import Rules


def graph_of(name: str) -> Walk:
    case = make(name)
    return walk(read_losses(case.losses()), case.params)


# ---- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "width", "tasks", "cheaper"),
    [
        (16, 1024, 2, True),
        (64, 1024, 8, True),
        (256, 1024, 8, True),
        (1024, 1024, 8, False),
        (2000, 50, 8, False),
        (256, 256, 4, False),
    ],
)
def test_few_rows_and_wide_layers_are_cheaper(
    rows: int, width: int, tasks: int, cheaper: bool
) -> None:
    size = Size(1, rows, width, width, left=False)
    assert (cost_of([size], width**2, tasks, 2.0).saved > 0) == cheaper


def test_factors_never_hold_more_than_the_gradients() -> None:
    wide = Size(1, 16, 4, 1024, left=False)  # 16 rows of 1024 for a weight of 1024 x 4
    assert cost_of([wide], 4 * 1024, 64, 1.0).held == 4.0
    assert cost_of([wide], 4 * 1024, 64, 1.0).saved < 0


def test_double_precision_has_its_price() -> None:
    size = Size(1, 256, 1024, 1024, left=False)
    assert cost_of([size], 1024**2, 8, 2.0).saved > 0 > cost_of([size], 1024**2, 8, 64.0).saved


def test_a_table_costs_what_is_used_of_it() -> None:
    assert cost_of([Size(1, 100, 0, 16, left=True)], 10_000 * 16, 4, 2.0).saved > 0
    assert cost_of([Size(1, 20_000, 0, 16, left=True)], 10_000 * 16, 4, 2.0).saved < 0


# ---- the cut --------------------------------------------------------------------------------------


def test_heads_are_left_before_all_go_on_together() -> None:
    graph = graph_of("linear")
    zone, cut = find_cut(graph)
    assert len(cut) == 1  # the features
    for leaf, bits in zip(graph.leaves, (0b111,) * 3 + (1, 1, 2, 2, 4, 4), strict=True):
        assert leaf is not None
        assert graph.bits[leaf] == bits
        assert (leaf in zone) == (bits == 0b111)


def test_what_lies_above_a_cut_is_left_to_each_loss() -> None:
    graph = graph_of("heads at two levels")
    zone, cut = find_cut(graph)
    first, second = graph.leaves[0], graph.leaves[2]
    assert first in zone
    assert second not in zone
    assert all(edge[0] in zone for edge in cut)


def test_a_parameter_that_a_loss_reads_by_itself_is_not_batched() -> None:
    graph = graph_of("decay in one loss")
    assert graph.leaves[0] not in find_cut(graph)[0]


@pytest.mark.parametrize("name", ["branches", "heads at several places", "one tensor of losses"])
def test_no_entry_lies_below_another(name: str) -> None:
    graph = graph_of(name)
    zone, cut = find_cut(graph)
    for entry in {place for place, _ in cut}:
        below, waiting = set(), [entry]
        while waiting:
            for after in graph.following[waiting.pop()]:
                if after is not None and after[0] not in below:
                    below.add(after[0])
                    waiting.append(after[0])
        assert not below & {place for place, _ in cut}
        assert below <= zone


def test_tasks_that_come_in_by_other_nodes_are_another_backward() -> None:
    case = make("branches")
    plan = make_plan(walk(read_losses(case.losses()), case.params), case.params, "always", {})
    assert sorted(plan.groups) == [(0, 1), (2, 3)]


def test_the_others_do_not_see_what_a_task_does_in_its_own_branch() -> None:
    """A branch whose derivative is not finite makes NaN of the tasks in there, not of those in another."""
    found = []
    for factored in (True, False):
        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)).double()
        trunk = torch.tanh(layers[0](torch.randn(5, 4, dtype=torch.float64)))
        left, right = layers[1](trunk), layers[2](trunk)
        broken = (right - right.detach()).sqrt() + right
        losses = [left.square().mean(), left.mean(), broken.mean(), broken.square().mean()]
        params = list(layers.parameters())
        options: dict[str, Any] = {"factoring": Factoring("always")} if factored else {}
        take: Any = by_factors if factored else by_rows
        rules = Rules(nonfinite="skip_task")
        method = Fixed(1.0, 2.0, 3.0, 4.0)
        report = take(method, read_losses(losses), params, [1.0] * 4, rules, **options)
        found.append((grads(layers), report.skipped.tolist()))
    assert found[0][1] == found[1][1] == [False, False, True, True]
    assert_same(found[0][0], found[1][0])


# ---- plans ----------------------------------------------------------------------------------------


def train(factoring: Factoring, sizes: list[int], width: int = 96, tasks: int = 4) -> None:
    net = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))
    params = [*net.parameters(), *heads.parameters()]
    for size in sizes:
        features = net(torch.randn(size, width))
        tasks_ = read_losses([head(features).square().mean() for head in heads])
        method = Fixed(*[1.0] * tasks)
        by_factors(method, tasks_, params, [1.0] * tasks, Rules(), factoring=factoring)


def test_a_plan_is_made_once_for_each_kind_of_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(find, "make_plan", lambda *a: made.append(make_plan(*a)) or made[-1])
    factoring = Factoring("factored")
    train(factoring, [4, 4, 8, 4, 8])
    assert len(made) == 2
    assert [len(plan.uses) for plan in made] == [2, 2]
    train(factoring, [512])
    assert made[2].rows


def test_only_the_last_plans_are_kept() -> None:
    factoring = Factoring("factored")
    train(factoring, list(range(2, PLANS + 6)), width=8, tasks=2)
    assert len(factoring._plans) == PLANS


def test_auto_goes_by_rows_where_little_is_saved() -> None:
    auto, factored = Factoring("auto"), Factoring("factored")
    for factoring in (auto, factored):
        train(factoring, [4], tasks=4)
        assert "2 parameters in factors, batched, saves" in repr(factoring)
    deep = Factoring("auto")
    train(deep, [2048], tasks=2)
    assert repr(deep) == "Factoring('auto': one backward for each task)"


def test_many_rows_and_convolutions_go_one_by_one_on_a_cpu() -> None:
    case = make("convolutions")
    graph = walk(read_losses(case.losses()), case.params)
    assert make_plan(graph, case.params, "always", {}).groups
    assert not make_plan(graph, case.params, "factored", {}).groups


def test_what_it_has_learnt_can_be_copied_and_saved() -> None:
    factoring = Factoring("factored")
    train(factoring, [4])
    for other in (copy.deepcopy(factoring), pickle.loads(pickle.dumps(factoring))):
        assert repr(other) == repr(factoring)
        train(other, [4])


def test_a_model_that_cannot_be_batched_goes_one_by_one() -> None:
    class OnNumpy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.detach().clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return torch.from_numpy(gradient.numpy().copy())

    torch.manual_seed(0)
    net, factoring = nn.ModuleList(nn.Linear(4, 4) for _ in range(5)).double(), Factoring("always")
    data = torch.randn(3, 4, dtype=torch.float64)

    def losses() -> list[Tensor]:
        features = net[1](OnNumpy.apply(net[0](data)))
        return [head(features).square().mean() for head in net[2:]]

    params = list(net.parameters())
    found = []
    for _ in range(2):
        net.zero_grad()
        by_factors(Fixed(), read_losses(losses()), params, [1.0] * 3, Rules(), factoring=factoring)
        found.append(grads(net))
    net.zero_grad()
    by_rows(Fixed(), read_losses(losses()), params, [1.0] * 3, Rules())
    for mine in found:
        assert_same(mine, grads(net))
    assert "2 parameters in factors, one by one" in repr(factoring)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_a_compiled_model_goes_by_rows(backend: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
    run = torch.compile(net, backend=backend)
    params = [*net.parameters(), *heads.parameters()]
    factoring = Factoring("factored")
    with torch._functorch.config.patch(donated_buffer=False):
        features = run(torch.randn(3, 4))
        tasks = read_losses([head(features).square().mean() for head in heads])
        by_factors(Fixed(), tasks, params, [1.0] * 3, Rules(), factoring=factoring)
    assert repr(factoring) == "Factoring('factored': one backward for each task)"
    assert all(param.grad is not None for param in params)


def test_few_rows_are_batched_without_factors() -> None:
    """Of thin layers, whose gradients are small already."""
    net = nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 64))
    heads = nn.ModuleList(nn.Linear(64, 1) for _ in range(4))
    params = [*net.parameters(), *heads.parameters()]
    data = torch.randn(32, 64)
    factoring = Factoring("auto")
    found = []
    for take, options in ((by_factors, {"factoring": factoring}), (by_rows, {})):
        features = net(data)
        tasks = read_losses([head(features).square().mean() for head in heads])
        for param in params:
            param.grad = None
        take(Fixed(1.0, 2.0, 3.0, 4.0), tasks, params, [1.0] * 4, Rules(), **options)
        found.append([param.grad for param in params])
    assert repr(factoring) == "Factoring('auto': one batched backward for all tasks)"
    assert_same(*found, rtol=1e-5, atol=1e-7)

"""A step by factors against a step by rows: ``.grad`` and the report, whatever is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from factor_steps import by_factors, by_rows
from multitask import Fixed, Net, assert_equal, assert_same, batch, every_method, grads, method
from torch import Tensor

from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.tasks import Tasks, read_losses
from mtl_ops.merging.report import Report
from mtl_ops.merging.rules import Rules
from mtl_ops.methods import Method

RULES = Rules(nonfinite="skip_task")
ONES = [1.0, 1.0, 1.0]
Change = Callable[[Tasks], Tasks]


def both(
    chosen: Method | None = None,
    rules: Rules = RULES,
    weights: list[float] = ONES,
    change: Change = lambda tasks: tasks,
    steps: int = 2,
    net: Net | None = None,
    **rest: Any,
) -> tuple[tuple[Net, Report], tuple[Net, Report]]:
    """The same steps by factors and by rows, on equal networks."""
    results = []
    for factored in (True, False):
        own = copy.deepcopy(net or Net())
        mine = copy.deepcopy(chosen or Fixed())
        options = dict(rest)
        if "times_skipped" in rest:
            options["times_skipped"] = rest["times_skipped"].clone()
        take = by_rows
        if factored:
            factoring = Factoring("always")
            options["factoring"] = factoring
            take = by_factors
        for step in range(steps):
            torch.default_generator.manual_seed(step)
            tasks = change(read_losses(own.losses(batch(step))))
            report = take(mine, tasks, list(own.parameters()), weights, rules, **options)
        if factored and mine.needs == "gram" and not mine.tracks:
            assert "parameters in factors" in repr(factoring)
        results.append((own, report))
    return results[0], results[1]


def assert_agree(ours: tuple[Net, Report], theirs: tuple[Net, Report]) -> None:
    """The gradients and everything that is reported."""
    assert_same(grads(ours[0]), grads(theirs[0]))
    for name in ("weights", "gram", "norms", "cosines", "losses", "clip_scale", "skipped"):
        assert_same([getattr(ours[1], name)], [getattr(theirs[1], name)])
    assert_same([ours[1].times_skipped], [theirs[1].times_skipped])
    assert ours[1].names == theirs[1].names


@pytest.mark.parametrize("name", every_method())
def test_every_method(name: str) -> None:
    assert_agree(*both(method(name), steps=4))


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (Rules(max_norm=0.05), {}),
        (Rules(max_task_norm=0.3), {}),
        (Rules(max_task_norm=0.3, max_norm=0.05), {"sets": list(range(12))}),
        (RULES, {"sets": [0] * 4 + [1] * 8}),
        (RULES, {"shared": [True] * 2 + [False] * 10}),
        (RULES, {"shared": [False] * 6 + [True] * 6}),
        (RULES, {"times_skipped": torch.zeros(3, dtype=torch.int64)}),
    ],
    ids=str,
)
def test_every_rule(rules: Rules, more: dict[str, Any]) -> None:
    assert_agree(*both(rules=rules, **more))
    assert_agree(*both(method("upgrad"), rules, **more))


def test_a_method_of_losses_with_clipped_tasks() -> None:
    assert_agree(*both(method("dwa"), Rules(max_task_norm=0.3), steps=3))


def test_absent_tasks() -> None:
    def without(name: str) -> Change:
        def change(tasks: Tasks) -> Tasks:
            assert tasks.names is not None
            place = tasks.names.index(name)
            return replace(tasks, losses=(*tasks.losses[:place], None, *tasks.losses[place + 1 :]))

        return change

    for name in "abc":
        assert_agree(*both(change=without(name)))
    only = both(change=lambda tasks: without("a")(without("b")(tasks)), steps=1, chosen=Loose())
    assert_agree(*only)


class Loose(Fixed):
    """One that the helper does not expect factors of."""

    needs = "losses"

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        assert losses is not None
        return torch.ones_like(losses)


def test_weights_of_tasks() -> None:
    assert_agree(*both(weights=[0.5, 2.0, 1.0]))
    assert_agree(*both(weights=[0.0, 2.0, 1.0]))


@pytest.mark.parametrize("scale", [8.0, 2.0**16])
def test_scaled_losses(scale: float) -> None:
    rules = Rules(max_norm=0.05, max_task_norm=0.2)
    factor = torch.tensor(scale, dtype=torch.float64)
    assert_agree(*both(rules=rules, change=lambda tasks: replace(tasks, scale=factor)))


def _broken(kind: str, task: int) -> Change:
    def change(tasks: Tasks) -> Tasks:
        losses = list(tasks.losses)
        loss = losses[task]
        assert loss is not None
        if kind == "loss":
            losses[task] = loss * float("nan")
        else:  # the loss is finite, its derivative is not
            losses[task] = (loss - loss.detach()).sqrt() + loss
        return replace(tasks, losses=tuple(losses))

    return change


@pytest.mark.parametrize("kind", ["loss", "derivative"])
@pytest.mark.parametrize("task", [0, 2])
@pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step", "propagate"])
def test_a_task_that_is_not_finite_is_nothing_to_the_others(
    kind: str, task: int, nonfinite: Any
) -> None:
    ours, theirs = both(rules=Rules(nonfinite=nonfinite), change=_broken(kind, task))
    assert_agree(ours, theirs)
    finite = all(bool(g.isfinite().all()) for g in grads(ours[0]) if g is not None)
    assert finite == (nonfinite == "skip_task")
    skipped = ours[1].skipped
    assert skipped is not None
    assert skipped.tolist() == [t == task for t in range(3)]


def test_an_error_leaves_grad_as_it_was() -> None:
    net = Net()
    before = [torch.full_like(param, float(k)) for k, param in enumerate(net.parameters())]
    for param, gradient in zip(net.parameters(), before, strict=True):
        param.grad = gradient.clone()
    tasks = _broken("loss", 1)(read_losses(net.losses(batch())))
    with pytest.raises(RuntimeError, match="gradient of loss 'b' is not finite"):
        by_factors(
            Fixed(),
            tasks,
            list(net.parameters()),
            ONES,
            Rules(nonfinite="raise"),
            factoring=Factoring("always"),
        )
    assert_equal(grads(net), before)


def test_the_graph_is_kept_or_freed_as_asked() -> None:
    net, factoring = Net(), Factoring("always")
    params = list(net.parameters())

    def step(losses: dict[str, Tensor], keep: bool) -> None:
        tasks = read_losses(losses)
        options: dict[str, Any] = {"factoring": factoring, "retain_graph": keep}
        by_factors(Fixed(), tasks, params, ONES, RULES, **options)

    step(net.losses(batch()), keep=False)  # verified: from now on one pass
    losses = net.losses(batch())
    step(losses, keep=True)
    step(losses, keep=False)
    before = grads(net)
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        step(losses, keep=False)
    assert_equal(grads(net), before)


def test_gradients_that_are_there_are_added_to() -> None:
    net = Net()
    for param in list(net.parameters())[::2]:
        param.grad = torch.ones_like(param)
    assert_agree(*both(net=net))


def test_no_parameter_that_a_loss_reaches() -> None:
    net, other = Net(), torch.nn.Linear(2, 2)
    tasks = read_losses(net.losses(batch()))
    with pytest.raises(ValueError, match="Found none that does"):
        by_factors(
            Fixed(), tasks, list(other.parameters()), ONES, RULES, factoring=Factoring("always")
        )


def test_low_precision_under_autocast() -> None:
    results = []
    for factored in (True, False):
        net = Net(torch.float32)
        factoring = Factoring("always")
        options: dict[str, Any] = {"factoring": factoring} if factored else {}
        take: Any = by_factors if factored else by_rows
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tasks = read_losses(net.losses(batch(like=net)))
        report = take(Fixed(), tasks, list(net.parameters()), ONES, RULES, **options)
        if factored:
            assert "parameters in factors" in repr(factoring)
        results.append((grads(net), report.gram))
    assert_same(results[0][0], results[1][0], rtol=0.02, atol=0.02)
    assert_same([results[0][1]], [results[1][1]], rtol=0.02, atol=0.02)

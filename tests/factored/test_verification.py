"""What changes gradients on their way is found out in the first step of a kind of graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from factor_steps import by_factors, by_rows
from multitask import Fixed, Net, assert_same, batch, grads
from torch import Tensor

from mtl_ops.gradients.factored import find
from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.tasks import read_losses
from mtl_ops.merging.rules import Rules

WARNING = "something changes gradients on their way"
Hooked = Callable[[Net, Tensor], dict[str, Tensor]]


def steps(hooked: Hooked, factoring: Factoring | None, count: int = 3) -> list[Tensor | None]:
    """The gradients of a few steps of a network with hooks, by factors or, without a factoring, by rows."""
    net = Net()
    take: Any = by_rows if factoring is None else by_factors
    options: dict[str, Any] = {} if factoring is None else {"factoring": factoring}
    for step in range(count):
        tasks = read_losses(hooked(net, batch(step)))
        take(Fixed(), tasks, list(net.parameters()), [1.0] * 3, Rules(), **options)
    return grads(net)


def hook_on(place: str, change: Callable[[Tensor], Tensor | None]) -> Hooked:
    """The losses of the network, with a hook of an intermediate tensor."""

    def losses(net: Net, data: Tensor) -> dict[str, Tensor]:
        first = net.trunk[0](data)
        hidden = net.trunk[1](first)
        second = net.trunk[2](hidden)
        features = net.trunk[3](second)
        narrow = net.neck(features)
        {"product": second, "features": features, "hidden": hidden}[place].register_hook(change)
        inputs = {"a": features, "b": narrow, "c": narrow}
        return {name: net.heads[name](inputs[name]).square().mean() for name in net.heads}

    return losses


@pytest.mark.parametrize("place", ["product", "features", "hidden"])
def test_hooks_that_change_gradients(place: str) -> None:
    hooked = hook_on(place, lambda gradient: 2 * gradient)
    factoring = Factoring("always")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = steps(hooked, factoring)
    assert_same(found, steps(hooked, None))
    # A hook between products is a step of the backward like any other.
    assert sum(WARNING in str(w.message) for w in caught) == (0 if place == "hidden" else 1)


def test_hooks_that_only_look() -> None:
    seen: list[Tensor] = []
    found = steps(hook_on("product", lambda gradient: seen.append(gradient)), Factoring("always"))
    assert_same(found, steps(hook_on("product", lambda gradient: None), None))
    assert seen


def test_hooks_of_parameters_see_what_no_factor_takes_from_them() -> None:
    """Those of a parameter in factors are not called; it is verified to have none that changes its gradient."""
    net = Net()
    net.trunk[0].weight.register_hook(lambda gradient: 3 * gradient)
    other = Net()
    other.trunk[0].weight.register_hook(lambda gradient: 3 * gradient)
    factoring = Factoring("always")
    for step in range(2):
        tasks = read_losses(net.losses(batch(step)))
        params = list(net.parameters())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f".*{WARNING}")
            by_factors(Fixed(), tasks, params, [1.0] * 3, Rules(), factoring=factoring)
        rows = read_losses(other.losses(batch(step)))
        by_rows(Fixed(), rows, list(other.parameters()), [1.0] * 3, Rules())
    assert_same(grads(net), grads(other))


def test_a_product_that_saves_something_else_goes_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would be in a version of PyTorch that keeps other things under the same name."""
    name = "AddmmBackward0"
    size, read = find.PRODUCTS[name]

    def other(node: Any, use: Any) -> Any:
        product = read(node, use)
        product.matrix = product.matrix * 1.5
        return product

    monkeypatch.setitem(find.PRODUCTS, name, (size, other))
    plain = hook_on("hidden", lambda gradient: None)
    factoring = Factoring("always")
    with pytest.warns(UserWarning, match=f"{WARNING}.* 3 of 12 parameters"):
        found = steps(plain, factoring)
    assert_same(found, steps(plain, None))
    assert "one backward for each task" in repr(factoring)


def test_is_one_backward_more_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    verify = find.disagreeing

    def counted(*args: Any) -> Any:
        calls.append(1)
        return verify(*args)

    monkeypatch.setattr(find, "disagreeing", counted)
    plain = hook_on("hidden", lambda gradient: None)
    factoring = Factoring("always")
    steps(plain, factoring)
    assert len(calls) == 1
    net = Net()
    for size in (4, 5):  # other sizes are other plans, but the same kind of graph
        tasks = read_losses(plain(net, batch(size=size)))
        params = list(net.parameters())
        by_factors(Fixed(), tasks, params, [1.0] * 3, Rules(), factoring=factoring)
    assert len(calls) == 1


def test_what_is_not_finite_is_verified_later(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    verify = find.disagreeing

    def noted(*args: Any) -> Any:
        calls.append(verify(*args))
        return calls[-1]

    monkeypatch.setattr(find, "disagreeing", noted)
    net, factoring = Net(), Factoring("always")
    params = list(net.parameters())
    for step in range(3):
        losses = net.losses(batch(step))
        losses["b"] = losses["b"] * (float("nan") if step == 0 else 1.0)
        tasks = read_losses(losses)
        rules = Rules(nonfinite="skip_task")
        by_factors(Fixed(), tasks, params, [1.0] * 3, rules, factoring=factoring)
    assert calls == [None, []]
    assert all(bool(g.isfinite().all()) for g in grads(net) if g is not None)

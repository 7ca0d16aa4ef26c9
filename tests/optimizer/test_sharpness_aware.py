"""Inner optimizers that move the parameters before they evaluate: SAM and schedule-free ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import Net, assert_equal, assert_same, batch
from torch import Tensor

from mtl_ops import MultiTaskOptimizer


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization in the shape that most code has: two steps, or a closure."""

    def __init__(
        self, params: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **options: Any
    ) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Uphill."""
        norm = torch.stack([p.grad.norm() for p in self._params()]).norm()
        for p in self._params():
            self.state[p]["old"] = p.clone()
            p.add_(p.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Back, and the step of the base."""
        for p in self._params():
            p.copy_(self.state[p]["old"])
        self.base.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        assert closure is not None
        self.first_step(zero_grad=True)
        torch.enable_grad()(closure)()
        self.second_step()

    def _params(self) -> list[Tensor]:
        return [p for g in self.param_groups for p in g["params"] if p.grad is not None]


def make_sam(params: Any) -> torch.optim.Optimizer:
    return SAM(params, torch.optim.SGD, lr=0.05, momentum=0.9)


def make_schedule_free(params: Any) -> torch.optim.Optimizer:
    schedulefree = pytest.importorskip("schedulefree")
    return schedulefree.AdamWScheduleFreeClosure(params, lr=0.01)


def make_other_sam(params: Any) -> torch.optim.Optimizer:
    others = pytest.importorskip("pytorch_optimizer")
    return others.SAM(params, torch.optim.SGD, lr=0.05, momentum=0.9)


def make_look_sam(params: Any) -> torch.optim.Optimizer:
    others = pytest.importorskip("pytorch_optimizer")
    return others.LookSAM(params, torch.optim.SGD, lr=0.05, momentum=0.9, k=3)


MAKERS = [make_sam, make_other_sam, make_look_sam, make_schedule_free]


def train(
    make: Callable[[Any], torch.optim.Optimizer], wrapped: bool, steps: int = 20
) -> tuple[Net, list[float]]:
    """Steps with the sum of the losses, bare or wrapped, and the values of all evaluations."""
    net, values = Net(), []
    inner = make(net.parameters())
    optimizer: Any = MultiTaskOptimizer(inner, "sum") if wrapped else inner
    for step in range(steps):

        def evaluate(step: int = step) -> Tensor:
            optimizer.zero_grad()
            losses = net.losses(batch(step))
            total = torch.stack(list(losses.values())).sum()
            if wrapped:
                optimizer.backward(losses)
            else:
                total.backward()
            values.append(total.item())
            return total

        if hasattr(optimizer, "train"):
            optimizer.train()
        evaluate()
        optimizer.step(evaluate)
    return net, values


@pytest.mark.parametrize("make", MAKERS)
def test_trains_as_the_bare_one(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    bare, expected = train(make, wrapped=False)
    net, values = train(make, wrapped=True)
    assert len(values) == len(expected)
    assert values == pytest.approx(expected, rel=1e-9)
    # LookSAM takes a gradient apart, which magnifies rounding.
    assert_same(net.parameters(), bare.parameters(), rtol=1e-4, atol=2e-6)
    assert not torch.equal(net.trunk[0].weight, Net().trunk[0].weight)


def test_two_steps_as_the_closure() -> None:
    nets = [Net(), Net()]
    one, two = (MultiTaskOptimizer(make_sam(net.parameters()), "upgrad") for net in nets)
    for step in range(5):
        one.zero_grad()
        one.backward(nets[0].losses(batch(step)))
        one.step(lambda step=step: one.backward(nets[0].losses(batch(step))))
        two.zero_grad()
        two.backward(nets[1].losses(batch(step)))
        two.first_step(zero_grad=True)
        two.backward(nets[1].losses(batch(step)))
        two.second_step()
    assert_equal(nets[0].parameters(), nets[1].parameters())


def steps_of(net: Net, optimizer: MultiTaskOptimizer, lost: dict[str, int]) -> Callable[[], Tensor]:
    """A closure; its evaluation of the number ``lost["at"]`` is not finite."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        lost["calls"] += 1
        factor = torch.nan if lost["calls"] == lost["at"] else 1.0
        losses = {name: loss * factor for name, loss in net.losses(batch()).items()}
        optimizer.backward(losses)
        return torch.stack(list(losses.values())).sum()

    return closure


def everything(net: Net, inner: torch.optim.Optimizer) -> list[Any]:
    """Parameters and state, copied."""
    tensors = list(net.parameters())
    tensors += [
        v for values in inner.state.values() for v in values.values() if isinstance(v, Tensor)
    ]
    tensors += [
        torch.tensor(float(v))
        for g in inner.param_groups
        for v in g.values()
        if isinstance(v, (int, float))
    ]
    return [tensor.detach().clone() for tensor in tensors]


INNER: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "lbfgs": lambda params: torch.optim.LBFGS(params, lr=0.1, max_iter=3),
    "strong_wolfe": lambda params: torch.optim.LBFGS(
        params, lr=0.1, max_iter=3, line_search_fn="strong_wolfe"
    ),
    "adam": lambda params: torch.optim.Adam(params, lr=0.1),
    "sam": make_sam,
    "other sam": make_other_sam,
    "schedule-free": make_schedule_free,
}


@pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step"])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", INNER)
def test_a_lost_first_evaluation_changes_nothing(name: str, steps: int, nonfinite: Any) -> None:
    net = Net()
    inner = INNER[name](net.parameters())
    optimizer = MultiTaskOptimizer(inner, "upgrad", nonfinite=nonfinite)
    if hasattr(optimizer, "train"):
        optimizer.train()
    lost = {"calls": 0, "at": -1}
    closure = steps_of(net, optimizer, lost)
    for _ in range(steps):
        closure()
        optimizer.step(closure)
    closure()
    before = everything(net, inner)
    lost["at"] = lost["calls"] + 1
    assert torch.isnan(optimizer.step(closure))
    assert lost["calls"] == lost["at"]
    assert_equal(everything(net, inner), before)
    assert optimizer._merger.progress.steps == steps + 1
    optimizer.zero_grad()
    closure()
    optimizer.step(closure)
    assert not torch.equal(next(net.parameters()), before[0])
    assert all(param.isfinite().all() for param in net.parameters())


@pytest.mark.parametrize("name", INNER)
def test_an_error_in_the_first_evaluation_changes_nothing(name: str) -> None:
    net = Net()
    inner = INNER[name](net.parameters())
    optimizer = MultiTaskOptimizer(inner, "upgrad")
    if hasattr(optimizer, "train"):
        optimizer.train()
    closure = steps_of(net, optimizer, {"calls": 0, "at": -1})
    for _ in range(2):
        closure()
        optimizer.step(closure)
    closure()
    before = everything(net, inner)
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert_equal(everything(net, inner), before)
    assert optimizer._merger.progress.steps == 2


def test_gradients_that_were_lost_before_the_step() -> None:
    net = Net()
    optimizer = MultiTaskOptimizer(make_sam(net.parameters()), "upgrad")
    before = [param.clone() for param in net.parameters()]
    optimizer.backward([loss * torch.nan for loss in net.losses(batch()).values()])
    optimizer.step(lambda: optimizer.backward(list(net.losses(batch()).values())))
    assert_equal(net.parameters(), before)


def test_a_task_that_is_skipped_does_not_call_the_step_off() -> None:
    net = Net()
    optimizer = MultiTaskOptimizer(make_sam(net.parameters()), "upgrad")
    before = net.trunk[0].weight.clone()

    def closure() -> None:
        optimizer.zero_grad()
        optimizer.backward({**net.losses(batch()), "a": net.losses(batch())["a"] * torch.nan})

    closure()
    optimizer.step(closure)
    assert not torch.equal(net.trunk[0].weight, before)


class TestTurns:
    @pytest.mark.parametrize("name", ["adam", "sam", "lbfgs", "schedule-free"])
    def test_each_turn_is_a_step_with_its_own_tasks(self, name: str) -> None:
        nets = [Net(), Net()]
        wrapped = MultiTaskOptimizer(
            INNER[name](nets[0].parameters()), "sum", groups=[["a"], ["b", "c"]]
        )
        bare = INNER[name](nets[1].parameters())
        for optimizer in (wrapped, bare):
            if hasattr(optimizer, "train"):
                optimizer.train()
        for step in range(4):
            wrapped.step(lambda step=step: nets[0].losses(batch(step)))
            for group in (["a"], ["b", "c"]):

                def closure(step: int = step, group: list[str] = group) -> Tensor:
                    bare.zero_grad()
                    losses = nets[1].losses(batch(step))
                    total = torch.stack([losses[task] for task in group]).sum()
                    total.backward()
                    return total

                closure()
                bare.step(closure)
        assert_same(nets[0].parameters(), nets[1].parameters(), rtol=1e-9, atol=1e-12)
        assert wrapped._merger.progress.steps == 4

    def test_a_plain_optimizer_evaluates_once_a_turn(self) -> None:
        net, calls = Net(), []
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.1), "upgrad", groups=[["a"], ["b", "c"]]
        )
        optimizer.step(lambda: calls.append(1) or net.losses(batch()))
        assert len(calls) == 2

    def test_a_lost_turn_moves_nothing(self) -> None:
        net = Net()
        optimizer = MultiTaskOptimizer(
            make_sam(net.parameters()), "upgrad", groups=[["a"], ["b", "c"]]
        )
        before = [param.clone() for param in net.neck.parameters()]

        def closure() -> dict[str, Tensor]:
            losses = net.losses(batch())
            return {"a": losses["a"], "b": losses["b"] * torch.nan, "c": losses["c"] * torch.nan}

        start = net.trunk[0].weight.clone()
        optimizer.step(closure)
        assert_equal(net.neck.parameters(), before)
        assert all(param.isfinite().all() for param in net.parameters())
        assert not torch.equal(net.trunk[0].weight, start)

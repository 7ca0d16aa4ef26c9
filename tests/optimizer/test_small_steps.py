"""What a step costs besides its backwards, in operators; and what is known from the last step is looked at again."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import Net, batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtl_ops import MultiTaskOptimizer
from mtl_ops.gradients.tasks import Tasks
from mtl_ops.methods import get

#: Methods of losses, and their arguments for three tasks.
METHODS: dict[str, dict[str, Any]] = {
    "constant": {"weights": [0.5, 1.0, 2.0]},
    "dwa": {"window": 2},
    "equal": {},
    "famo": {},
    "geometric": {},
    "imtl_l": {},
    "ldc_mtl": {"normalise": "log"},
    "random": {},
    "relobralo": {"rho": 0.5},
    "softadapt": {},
    "stch": {},
    "uncertainty": {},
}


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.count[func.name()] += 1
        return func(*args, **kwargs or {})


def losses_of(x: Tensor, form: str) -> Any:
    found = [(x - 1).square().sum(), (2 * x).exp().mean(), (x + 3).abs().sum()]
    if form == "stacked":
        return torch.stack(found)
    if form == "of two dtypes":
        found[1] = found[1].double().reshape(1)
    return dict(zip("abc", found, strict=True))


def operators(method: str, form: str) -> Counter[str]:
    """Those of a later step, without those of the bare backwards that it takes."""
    x = nn.Parameter(torch.tensor([0.5, -0.25]))
    chosen = get(method, **METHODS.get(method, {}))
    optimizer = MultiTaskOptimizer(torch.optim.SGD([x], lr=0.01), chosen)
    for _ in range(4):
        optimizer.zero_grad()
        losses = losses_of(x, form)
        with Operators() as counted:
            optimizer.backward(losses)
        optimizer.step()
    given = losses_of(x, form)
    each = [*given] if form == "stacked" else list(given.values())
    starts = [given] if form == "stacked" else each
    ones = [torch.ones_like(one) for one in starts]
    with Operators() as bare:
        if chosen.needs == "losses":
            torch.autograd.grad(starts, [x], ones)
        else:
            for start in each:
                torch.autograd.grad(start, [x], torch.ones(()), retain_graph=True)
    counted.count.subtract(bare.count)
    return +counted.count


@pytest.mark.parametrize(
    ("method", "form", "most"),
    [
        ("equal", "stacked", 2),
        ("equal", "by name", 6),
        ("constant", "stacked", 3),
        ("random", "stacked", 4),
        ("geometric", "stacked", 5),
        ("famo", "stacked", 8),
        ("dwa", "stacked", 9),
        ("relobralo", "stacked", 9),
        ("uncertainty", "stacked", 9),
        ("pcgrad", "stacked", 13),
    ],
)
def test_few_operators_besides_the_backward(method: str, form: str, most: int) -> None:
    """What else there is, is Python; an operator costs as much as thirty lines of it."""
    found = operators(method, form)
    assert 0 < sum(found.values()) <= most, dict(found)


def trained(method: str, form: str) -> tuple[list[Any], Tensor, Any]:
    """What some steps report, where they end, and what the method remembers then."""
    torch.manual_seed(0)
    x = nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.float64))
    optimizer = MultiTaskOptimizer(torch.optim.SGD([x], lr=0.01), get(method, **METHODS[method]))
    reports = []
    for _ in range(5):
        optimizer.zero_grad()
        optimizer.backward(losses_of(x, form))
        optimizer.step()
        found = optimizer.report
        assert found.weights is not None
        assert found.weights.shape == (1, 3)
        assert found.losses is not None
        assert found.losses.dtype == found.weights.dtype == torch.float64
        assert (found.gram, found.norms, found.clip_scale, found.times_skipped) == (None,) * 4
        reports.append((found.weights, found.losses))
    return reports, x.detach(), copy.deepcopy(optimizer.method.state_dict())


@pytest.mark.parametrize("form", ["stacked", "by name", "of two dtypes"])
@pytest.mark.parametrize("method", METHODS)
def test_numbers_are_as_tensors(method: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where losses cannot be read without a wait, nothing else comes out."""
    with_numbers = trained(method, form)
    monkeypatch.setattr(Tasks, "numbers", None)
    with_tensors = trained(method, form)
    torch.testing.assert_close(with_numbers, with_tensors, rtol=1e-14, atol=1e-15)


def test_a_task_of_weight_zero_and_a_loss_that_is_not_finite_take_no_part() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD([x], lr=0.1), "geometric", task_weights=[1.0, 0.0, 2.0]
    )
    for last in (1.0, torch.inf):
        optimizer.zero_grad()
        optimizer.backward(torch.stack([x.sum(), 2 * x.sum(), last * x.square().sum()]))
        assert optimizer.report.weights is not None
        (weights,) = optimizer.report.weights.tolist()
        assert weights[1] == 0
        assert (weights[2] > 0) == (last == 1.0)
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_weights_that_are_not_finite_call_the_step_off() -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = MultiTaskOptimizer(torch.optim.SGD([x], lr=0.1), "geometric")
    optimizer.backward(torch.stack([x.sum(), -x.sum()]))  # a negative loss has no logarithm
    optimizer.step()
    assert x.tolist() == [1.0, 1.0]


# ---- what a method learns -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["uncertainty", "imtl_l", "ldc_mtl"])
def test_slopes_are_of_the_losses_and_the_scales_that_they_are_asked_for(method: str) -> None:
    chosen, other = get(method), get(method)
    losses, later = torch.tensor([1.0, 3.0]).double(), torch.tensor([2.0, 0.5]).double()
    (s,), (fresh,) = (one.learnable(2, losses.device) for one in (chosen, other))
    for changed in (False, True):
        for asked in (losses, later):
            chosen.weights(None, losses)
            with torch.no_grad():
                if changed:
                    s.add_(0.25)
                fresh.copy_(s)
            s.grad = fresh.grad = None
            chosen.add_grads(asked)
            other.add_grads(asked)
            assert s.grad is not None
            assert fresh.grad is not None
            assert torch.equal(s.grad, fresh.grad)
            assert s.grad.any()


# ---- parameters that change from step to step -----------------------------------------------------


def freeze(net: Net, optimizer: MultiTaskOptimizer) -> None:
    net.trunk[0].requires_grad_(False)


def add_group(net: Net, optimizer: MultiTaskOptimizer) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1).double())]})


def replace_one(net: Net, optimizer: MultiTaskOptimizer) -> None:
    net.neck.weight = nn.Parameter(net.neck.weight.detach().clone())
    groups = optimizer.param_groups
    place = [p.shape for p in groups[0]["params"]].index(net.neck.weight.shape)
    groups[0]["params"][place] = net.neck.weight


def move_to_another_group(net: Net, optimizer: MultiTaskOptimizer) -> None:
    first, second = optimizer.param_groups
    second["params"].insert(0, first["params"].pop())


@pytest.mark.filterwarnings("ignore:No loss reaches")
@pytest.mark.parametrize("change", [freeze, add_group, replace_one, move_to_another_group])
@pytest.mark.parametrize("method", ["equal", "mgda"])
def test_what_is_merged_is_what_the_groups_hold_now(
    method: str, change: Callable[[Net, MultiTaskOptimizer], None]
) -> None:
    found = []
    for warm in (True, False):
        net = Net()
        params = list(net.parameters())
        groups = [{"params": params[:6]}, {"params": params[6:]}]
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(groups, lr=0.1),
            method,
            granularity="group" if method == "mgda" else "model",
        )
        for _ in range(2 * warm):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch()))
        change(net, optimizer)
        optimizer.zero_grad()
        optimizer.backward(net.losses(batch(1)))
        found.append([param.grad for group in optimizer.param_groups for param in group["params"]])
    for one, two in zip(*found, strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)
    assert any(one is not None for one in found[0])

"""``mtl_ops.compare_steps``: what it finds, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import importlib.util
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer, StepCost, compare_steps
from mtl_ops.compare.kinds import kinds_of
from mtl_ops.compare.table import plain_table

QUICK: dict[str, Any] = {"seconds": 1e-3, "verbose": False}


class Net(nn.Module):
    """A trunk with buffers and dropout, and three heads; evaluating it counts."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            norm = nn.BatchNorm1d(16, affine=False)
            self.trunk = nn.Sequential(nn.Linear(5, 16), norm, nn.Tanh(), nn.Dropout(0.2))
            self.heads = nn.ModuleList([nn.Linear(16, 1) for _ in range(3)])
            self.register_buffer("calls", torch.zeros(()))
            self.data = torch.randn(12, 5)

    def evaluate(self) -> dict[str, Tensor]:
        return self.with_features()[0]

    def with_features(self) -> tuple[dict[str, Tensor], Tensor]:
        self.calls += 1
        random.random(), np.random.rand()
        features = self.trunk(self.data.to(self.calls.device))
        outputs = [head(features) for head in self.heads]
        goals = (1.0, -1.0, 0.3)
        losses = [
            (o - g).square().mean() * 3.0**k
            for k, (o, g) in enumerate(zip(outputs, goals, strict=True))
        ]
        return dict(zip("abc", losses, strict=True)), features


def trained(
    method: str = "upgrad", inner: Callable[..., Any] = torch.optim.Adam, **options: Any
) -> tuple[Net, MultiTaskOptimizer]:
    """After a step, so that there is a state."""
    net = Net()
    optimizer = MultiTaskOptimizer(inner(net.parameters(), lr=0.05), method, **options)
    losses, features = net.with_features()
    with_features = {"features": features} if options.get("gram_on") == "features" else {}
    optimizer.backward(losses, **with_features)
    if inner is not torch.optim.LBFGS:
        optimizer.step()
    return net, optimizer


def by_name(rows: list[StepCost]) -> dict[str, StepCost]:
    return {row.name: row for row in rows}


def everything(net: Net, optimizer: MultiTaskOptimizer) -> list[Any]:
    """Copies of all that may change, and what must stay the same object."""
    copies = [
        net.state_dict(),
        optimizer.state_dict(),
        torch.get_rng_state(),
        np.random.get_state()[1],
    ]
    grads = [param.grad for param in net.parameters()]
    return [*copy.deepcopy(copies), random.getstate(), *map(id, grads), id(optimizer.report)]


def assert_equal(one: Any, two: Any) -> None:
    left, right = (torch.utils._pytree.tree_flatten(tree) for tree in (one, two))
    assert str(left[1]) == str(right[1])
    for a, b in zip(left[0], right[0], strict=True):
        if isinstance(a, (Tensor, np.ndarray)):
            assert np.array_equal(a, b, equal_nan=True)
        else:
            assert a == b


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm", "moco"])
def test_everything_is_left_as_it_was(method: str) -> None:
    net, optimizer = trained(method)
    before = everything(net, optimizer)
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    compare_steps(optimizer, net.evaluate, **QUICK)
    assert_equal(everything(net, optimizer), before)
    now = [state["exp_avg"] for state in optimizer.state.values()]
    assert [id(tensor) for tensor in now] == [id(tensor) for tensor in moments]


def test_an_error_in_the_middle_leaves_everything_as_it_was() -> None:
    net, optimizer = trained()
    before, left = everything(net, optimizer), [20]

    def evaluate() -> dict[str, Tensor]:
        left[0] -= 1
        if not left[0]:
            raise Interrupted
        return net.evaluate()

    with pytest.raises(Interrupted):
        compare_steps(optimizer, evaluate, **QUICK)
    assert_equal(everything(net, optimizer), before)


def test_a_schedule_and_hooks_see_no_step() -> None:
    net, optimizer = trained()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    seen: list[object] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    compare_steps(optimizer, net.evaluate, **QUICK)
    assert schedule.state_dict()["_step_count"] == 1
    assert seen == []
    optimizer.step()
    assert seen == [1]


def test_gradients_of_others_and_those_that_a_function_clears_are_left_as_they_were() -> None:
    net = Net()
    net.trunk.append(nn.Linear(16, 16))  # of another optimizer, or of none
    own = [*net.trunk[0].parameters(), *net.heads.parameters()]
    optimizer = MultiTaskOptimizer(torch.optim.SGD(own, lr=0.1))
    for param in net.parameters():
        param.grad = torch.ones_like(param)

    def evaluate() -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=False)
        return net.evaluate()

    compare_steps(optimizer, evaluate, **QUICK)
    assert all(torch.equal(param.grad, torch.ones_like(param)) for param in net.parameters())


@pytest.mark.parametrize("method", ["moco", "uncertainty"])
def test_a_function_that_takes_steps_is_refused(method: str) -> None:
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.Adam(net.parameters(), lr=1e-9), method)
    before = everything(net, optimizer)

    def step() -> dict[str, Tensor]:
        losses = net.evaluate()
        optimizer.backward(losses)
        optimizer.step()
        return net.evaluate()

    with pytest.raises(ValueError, match=r"only evaluate losses.*Found a backward or a step"):
        compare_steps(optimizer, step, **QUICK)
    assert_equal(everything(net, optimizer), before)


def test_a_scaler_changes_no_angle() -> None:
    def angle(**options: Any) -> float | None:
        net = Net()
        inner = torch.optim.SGD(net.parameters(), lr=0.01)
        optimizer = MultiTaskOptimizer(inner, "mgda", **options)
        return by_name(compare_steps(optimizer, net.evaluate, **QUICK))["plain sum"].angle

    scaled = angle(grad_scaler=torch.amp.GradScaler("cpu"))
    assert scaled == pytest.approx(angle(), rel=1e-3)


def test_tasks_keep_their_places_and_schedules_of_weights_their_step() -> None:
    net, optimizer = trained(method=mtl_ops.methods.get("constant", weights=[100.0, 1.0, 1.0]))
    turned = by_name(compare_steps(optimizer, lambda: _turned(net.evaluate()), **QUICK))
    straight = by_name(compare_steps(optimizer, net.evaluate, **QUICK))
    assert turned["plain sum"].angle == pytest.approx(straight["plain sum"].angle, rel=1e-3)
    steps: set[int] = set()
    net, optimizer = trained(task_weights=lambda step: steps.add(step) or [1.0, 1.0, 1.0])
    steps.clear()
    compare_steps(optimizer, net.evaluate, **QUICK)
    assert min(steps) == 1


def _turned(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(reversed(losses.items()))


def test_losses_of_one_element_may_have_any_shape() -> None:
    net = nn.Linear(3, 2)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1))

    def evaluate() -> list[Tensor]:
        first, second = (net(torch.ones(4, 3)) - 1).square().mean(0)
        return [first.reshape(1), second]

    assert compare_steps(optimizer, evaluate, **QUICK)[0].seconds


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:Converting a tensor")
def test_scripted_modules_and_half_made_ones() -> None:
    class HalfMade(nn.Module):
        def __init__(self) -> None:
            self.size = 3  # and then something went wrong

    half_made = HalfMade()
    script = torch.jit.trace(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), torch.ones(4, 3))
    before = copy.deepcopy(script.state_dict())
    optimizer = MultiTaskOptimizer(torch.optim.SGD(script.parameters(), lr=0.1))
    data = torch.randn(4, 3)
    compare_steps(optimizer, lambda: (script(data) - 1).square().mean(0), **QUICK)
    assert_equal(script.state_dict(), before)
    assert half_made.size == 3


@pytest.fixture(scope="module")
def found() -> dict[str, StepCost]:
    net, optimizer = trained("pcgrad")  # which draws orders
    return by_name(compare_steps(optimizer, net.with_features, features=True, **QUICK))


def test_what_is_exact_has_no_angle_and_what_is_not_has_one(found: dict[str, StepCost]) -> None:
    assert list(found)[:2] == ["plain sum", "exact"]
    assert found["plain sum"].ratio == 1.0
    for row in found.values():
        assert row.seconds is not None, row
        assert row.seconds > 0, row
        assert row.angle is not None, row
    for name in ("exact", "batched", "factored", "auto", "streamed"):
        assert found[name].angle < 0.01, name
    for name in ("plain sum", "G on the features", "weights every 8 steps", "rows in bfloat16"):
        assert found[name].angle > 0.02, name
    kept = found["weights every 8 steps"].angle
    assert found["factored, every 8 steps"].angle == pytest.approx(kept, rel=1e-3)


def test_the_options_make_such_a_step(found: dict[str, StepCost]) -> None:
    for name in ("batched", "factored", "rows in bfloat16", "streamed", "factored, every 8 steps"):
        net, optimizer = trained(**found[name].options)
        optimizer.backward(net.evaluate())
        assert optimizer.report.weights is not None
    assert found["rows in bfloat16"].options == {"grad_dtype": torch.bfloat16}


def test_a_choice_of_the_user_is_a_kind() -> None:
    for own, listed in (({"weights_every": 3}, True), ({"weights_every": 8}, False), ({}, False)):
        _, optimizer = trained(**own)
        kinds = kinds_of(optimizer.settings, None, features=False)
        assert [kind.options for kind in kinds if kind.name == "as it is set"] == [own] * listed


def test_kinds_that_do_not_apply_say_why() -> None:
    net, optimizer = trained("median")
    found = by_name(compare_steps(optimizer, net.evaluate, **QUICK))
    assert found["factored"].seconds is None
    assert "median" in found["factored"].note
    assert found["exact"].note == ""
    net, optimizer = trained("uncertainty")
    found = by_name(compare_steps(optimizer, net.evaluate, **QUICK))
    assert found["exact"].seconds is not None
    assert "uncertainty" in found["streamed"].note


def test_warnings_are_notes() -> None:
    net, optimizer = trained()

    def doubled() -> dict[str, Tensor]:
        losses, features = net.with_features()
        features.register_hook(lambda grad: 2 * grad)
        return losses

    found = by_name(compare_steps(optimizer, doubled, **QUICK))
    assert "hook" in found["factored"].note
    assert found["factored"].angle < 0.01
    assert found["batched"].note == ""


def test_an_inner_optimizer_that_needs_a_closure_stays_where_it_is() -> None:
    net, optimizer = trained(inner=torch.optim.LBFGS)
    found = by_name(compare_steps(optimizer, net.evaluate, **QUICK))
    assert found["weights every 8 steps"].angle < 0.01
    assert found["plain sum"].angle > 1.0


@pytest.mark.skipif(
    not mtl_ops.compare.peak._CLEAR.exists(), reason="Linux says what a process took"
)
def test_rows_take_memory() -> None:
    trunk, heads = nn.Linear(512, 512), nn.Linear(512, 8)
    data = torch.ones(4, 512)
    params = [*trunk.parameters(), *heads.parameters()]
    optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1))
    rows = compare_steps(optimizer, lambda: heads(trunk(data).tanh()).square().mean(0), **QUICK)
    found = by_name(rows)
    assert found["exact"].peak > 7 * trunk.weight.nbytes
    assert found["factored"].peak < 5 * trunk.weight.nbytes


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = trained("median")
    rows = compare_steps(optimizer, net.evaluate, seconds=1e-3)
    shown = capsys.readouterr().out
    assert "× plain sum" in shown
    assert "factored: " in shown
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    mtl_ops.compare.table.show(rows)
    lines = capsys.readouterr().out.splitlines()
    assert lines == plain_table(rows).splitlines()
    assert lines[0].split()[:2] == ["step", "ms"]
    assert len({len(line) for line in lines[1:3]}) == 1


def draws_anew() -> list[Tensor]:
    return next(BATCHES)


BATCHES = iter([[torch.tensor(float(k), requires_grad=True)] * 2 for k in range(9)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))])},
            TypeError,
            "`optimizer` .* Found SGD",
        ),
        ({"losses_fn": 3}, TypeError, "`losses_fn` .* Found int"),
        ({"losses_fn": lambda: None}, TypeError, "`losses`"),
        (
            {"losses_fn": draws_anew},
            ValueError,
            "`losses_fn` should return the losses of the same batch",
        ),
        ({"features": 1}, TypeError, "`features = 1`"),
        ({"features": True}, TypeError, "a pair of losses and features.* Found dict"),
        ({"seconds": 0}, ValueError, "`seconds = 0`"),
        ({"seconds": float("nan")}, ValueError, "`seconds = nan`"),
        ({"seconds": True}, ValueError, "`seconds = True`"),
        ({"verbose": None}, TypeError, "`verbose = None`"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    net, optimizer = trained()
    given = {"optimizer": optimizer, "losses_fn": net.evaluate, **QUICK, **arguments}
    before = everything(net, optimizer)
    with pytest.raises(error, match=message):
        compare_steps(**given)
    assert_equal(everything(net, optimizer), before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    net = Net().cuda()
    optimizer = MultiTaskOptimizer(torch.optim.Adam(net.parameters()))
    state = torch.cuda.get_rng_state()
    rows = compare_steps(optimizer, net.evaluate, **QUICK)
    assert all(row.peak is not None for row in rows if row.seconds is not None)
    torch.testing.assert_close(torch.cuda.get_rng_state(), state)

"""After an error at any point, and after Ctrl+C, nothing has changed: gradients, memories, counters, generators."""

from __future__ import annotations

import copy
import itertools
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from multitask import Net, assert_equal, batch, method, wrap
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mtl_ops

PACKAGE = str(Path(mtl_ops.__file__).parent)


class Injected(BaseException):
    """What goes wrong; like Ctrl+C, no ``Exception``."""


class FailAt(TorchDispatchMode):
    """Raises at the k-th operator, of ours or of torch, also within a backward: before or after it runs."""

    def __init__(self, k: int, after: bool) -> None:
        super().__init__()
        self.left, self.after = k, after

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.left -= 1
        if self.left == -1 and not self.after:
            raise Injected
        result = func(*args, **kwargs or {})
        # Torch marks a tensor as changed only when its operator has returned.
        if self.left == -1 and func is not torch.ops.aten._foreach_add_.List:
            raise Injected
        return result


class InterruptedAt:
    """Raises at the k-th line of the package that is run, as Ctrl+C may."""

    def __init__(self, k: int) -> None:
        self.left = k
        self.before = sys.gettrace()

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.left < 0 or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.left -= 1
            if self.left == -1:
                raise Injected
        return self.trace


#: Kinds of steps: the method, the options, and whether something is in ``.grad`` already.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("upgrad", {}),
    "draws": ("pcgrad", {}),
    "remembers": ("gradvac", {"max_norm": 1.0}),
    "coordinates": ("graddrop", {}),
    "losses": ("equal", {}),
    "losses, clipped": ("equal", {"max_norm": 1.0}),
    "losses, learns": ("uncertainty", {}),
    "losses, remembers": ("famo", {}),
    "losses, counts": ("dwa", {}),
    "losses, draws": ("random", {}),
    "features": ("upgrad", {"gram_on": "features"}),
    "features, remembers": ("gradvac", {"gram_on": "features"}),
    "layer": ("upgrad", {"gram_on": "layer"}),
    "every": ("gradvac", {"weights_every": 2}),
    "stream": ("gradvac", {"memory": "stream"}),
    "batched": ("upgrad", {"batched": True}),
    "stored": ("pcgrad", {"grad_dtype": torch.float32}),
    "tensor": ("gradvac", {"granularity": "tensor"}),
}


class Run:
    """A network and its optimizer, and what of them is to stay."""

    def __init__(self, kind: str, steps: int = 1, filled: bool = False) -> None:
        name, options = KINDS[kind]
        options = dict(options)
        self.net = Net()
        if options.get("gram_on") == "layer":
            options["gram_on"] = [self.net.trunk[2].weight]
        self.features = options.get("gram_on") == "features"
        self.observes = name == "famo"
        self.generator = torch.Generator().manual_seed(3)
        if name == "random":
            options["generator"] = self.generator
        self.optimizer = wrap(self.net, method(name), **options)
        torch.manual_seed(5)
        for step in range(steps):
            self.optimizer.zero_grad()
            self.backward(step)
            self.optimizer.step()
            if self.observes:
                self.optimizer.observe(self.net.losses(batch(step)))
        self.optimizer.zero_grad()
        if filled:
            for place, param in enumerate(self.net.parameters()):
                if place % 3:
                    param.grad = torch.full_like(param, 0.25)

    def losses(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and losses."""
        net = self.net
        features = net.trunk(batch(step))
        narrow = net.neck(features)
        places = {"a": features, "b": narrow, "c": narrow}
        outputs = {name: net.heads[name](places[name]) for name in places}
        targets = {"a": 1.0, "b": -1.0, "c": 0.3}
        return features, {name: (y - targets[name]).square().mean() for name, y in outputs.items()}

    def backward(self, step: int) -> None:
        """One backward of fresh losses."""
        features, losses = self.losses(step)
        self.optimizer.backward(losses, features=features if self.features else None)

    def gradients(self) -> list[Tensor | None]:
        """What is in ``.grad`` of the network and of the method."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        return [param.grad for param in params]

    def state(self) -> dict[str, Any]:
        """All that is to stay, copied."""
        optimizer = self.optimizer
        memory = optimizer._merger.progress
        step = optimizer._merger.step
        return copy.deepcopy(
            {
                "gradients": self.gradients(),
                "names": (memory.names, memory.count, memory.looked_at_graph),
                "steps": memory.steps,
                "skipped": memory.times_skipped,
                "unstepped": len(memory.unstepped),
                "weights": memory.report.weights,
                "method": optimizer.method.state_dict(),
                "step": step.state_dict(),
                "drawn": (torch.get_rng_state(), self.generator.get_state()),
                "groups": len(optimizer.param_groups),
            }
        )


def assert_state(found: Any, expected: Any, where: str) -> None:
    """Equal to the bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0)), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_state(found[name], expected[name], f"{where} {name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for place, (one, two) in enumerate(zip(found, expected, strict=True)):
            assert_state(one, two, f"{where} {place}")
    elif hasattr(expected, "__dataclass_fields__"):
        assert_state(vars(found), vars(expected), where)
    else:
        assert found == expected, where


def backward_fails_everywhere(
    run: Run, failing: Callable[[int], Any], stride: int = 1, first: int = 0
) -> int:
    """A backward that fails at each of its points in turn, and changes nothing; returns how many there are.

    Args:
        run: What to run.
        failing: A context in which the k-th point fails.
        stride: Between the points.
        first: The first point.
    """
    before, held = run.state(), run.gradients()
    for k in itertools.count(first, stride):
        features, losses = run.losses(7)
        try:
            with failing(k):
                run.optimizer.backward(losses, features=features if run.features else None)
            return k
        except Injected:
            pass
        if len(run.optimizer._merger.progress.unstepped) != before["unstepped"]:
            return k  # failed after the last addition: all was done
        assert_state(run.state(), before, f"after a failure at point {k}:")
        assert all(one is two for one, two in zip(run.gradients(), held, strict=True)), k
    raise AssertionError


def right(kind: str, **options: Any) -> dict[str, Any]:
    """The state after a backward in which nothing fails."""
    run = Run(kind, **options)
    run.backward(7)
    return run.state()


STARTS = pytest.mark.parametrize(
    "start",
    [{"steps": 0}, {"steps": 1, "filled": True}],
    ids=["first", "filled"],
)


@STARTS
@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_fails(kind: str, start: dict[str, Any], small_pieces: None) -> None:
    expected = right(kind, **start)
    for after in (False, True):
        run = Run(kind, **start)
        points = backward_fails_everywhere(run, lambda k: FailAt(k, after), 5, 2 * after)  # noqa: B023
        assert points > 15
        assert_state(run.state(), expected, "the step after all failures:")


@STARTS
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_between_two_lines(
    kind: str, start: dict[str, Any], small_pieces: None
) -> None:
    expected = right(kind, **start)
    run = Run(kind, **start)
    assert backward_fails_everywhere(run, InterruptedAt, 37) > 100
    assert_state(run.state(), expected, "the step after all failures:")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", range(0, 12, 5))
def test_a_hook_fails(kind: str, place: int) -> None:
    run = Run(kind, filled=True)
    before, held = run.state(), run.gradients()

    def hook(_: Tensor) -> None:
        raise ValueError("of the hook")

    handle = list(run.net.parameters())[place].register_hook(hook)
    with pytest.raises(ValueError, match="of the hook"):
        run.backward(7)
    assert_state(run.state(), before, "after the hook:")
    assert all(one is two for one, two in zip(run.gradients(), held, strict=True))
    handle.remove()
    run.backward(7)
    assert_state(run.state(), right(kind, filled=True), "after the next backward:")


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_was_freed(kind: str) -> None:
    run = Run(kind, filled=True)
    features, losses = run.losses(7)
    losses["b"].backward(retain_graph=False)
    run.optimizer.zero_grad()
    before = run.state()
    with pytest.raises(RuntimeError, match="freed"):
        run.optimizer.backward(losses, features=features if run.features else None)
    assert_state(run.state(), before, "after the error:")


def test_sums_of_micro_batches_stay_or_are_forgotten() -> None:
    expected = right("draws")
    run = Run("draws")
    before = run.state()
    outcomes = []
    for k in range(0, 100, 3):
        run.optimizer.zero_grad()
        run.optimizer.accumulate(run.losses(6)[1])
        sums, losses = run.optimizer._merger.step.sums, run.losses(7)[1]
        with pytest.raises(Injected), FailAt(k, after=False):
            run.optimizer.backward(losses)
        assert_state(run.state(), before, f"after a failure at point {k}:")
        outcomes.append(run.optimizer._merger.step.sums)
        assert outcomes[-1] in (None, sums)
        losses = run.losses(6)[1]
        with pytest.raises(Injected), FailAt(k % 60, after=False):
            run.optimizer.accumulate(losses)
        assert_state(run.state(), before, f"after a failure at point {k}:")
    assert outcomes[0] is not None
    assert outcomes[-1] is None
    run.optimizer.zero_grad()
    run.backward(7)
    assert_state(run.state(), expected, "without the sums:")


def test_a_turn_fails() -> None:
    net = Net()
    optimizer = wrap(net, "gradvac", groups=[["a"], ["b", "c"]], tasks=["a", "b", "c"])
    optimizer.step(lambda: net.losses(batch()))
    calls = []

    def closure() -> dict[str, Tensor]:
        calls.append(1)
        return net.losses(batch())

    handle = net.neck.weight.register_hook(lambda gradient: 1 / 0)
    params, rho = [p.detach().clone() for p in net.parameters()], optimizer.method.rho.clone()
    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert len(calls) == 2  # the first turn does not go through the neck
    assert optimizer._merger.progress.steps == 1
    assert torch.equal(optimizer.method.rho, rho)
    assert all(param.grad is None for param in net.parameters())
    assert_equal(net.neck.parameters(), params[4:6])
    handle.remove()
    optimizer.step(closure)
    assert optimizer._merger.progress.steps == 2


@pytest.mark.parametrize("name", ["upgrad", "equal", "gradvac", "imtl_l"])
def test_backward_without_an_optimizer(name: str) -> None:
    net, chosen = Net(), method(name)
    params = list(net.parameters())
    mtl_ops.backward(net.losses(batch()), params, chosen)
    held = [param.grad for param in params]
    before = copy.deepcopy((held, chosen.state_dict()))
    handle = net.trunk[0].weight.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mtl_ops.backward(net.losses(batch(1)), params, chosen)
    found = ([param.grad for param in params], chosen.state_dict())
    assert_state(found, before, "after the error:")
    assert all(param.grad is grad for param, grad in zip(params, held, strict=True))
    handle.remove()
    mtl_ops.backward(net.losses(batch(1)), params, chosen)
    assert not torch.equal(params[0].grad, before[0][0])


@pytest.mark.parametrize("make", [lambda g: g.to_sparse(), lambda g: g[:1, :1].expand_as(g)])
def test_adds_to_gradients_that_cannot_be_written_to(make: Callable[[Tensor], Tensor]) -> None:
    x = torch.ones(2, 2, requires_grad=True)
    x.grad = make(torch.ones(2, 2))
    mtl_ops.backward([(2 * x).sum(), (3 * x).sum()], [x], "sum")
    assert torch.equal(x.grad, torch.full((2, 2), 6.0))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("kind", ["exact", "losses, remembers", "features, remembers", "every"])
def test_ctrl_c_at_random_times(kind: str) -> None:
    expected = right(kind, filled=True)
    run, draws = Run(kind, filled=True), random.Random(0)
    before, held = run.state(), run.gradients()
    interrupted = 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            features, losses = run.losses(7)
            try:
                signal.setitimer(signal.ITIMER_REAL, draws.uniform(1e-5, 3e-3))
                run.optimizer.backward(losses, features=features if run.features else None)
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            done = len(run.optimizer._merger.progress.unstepped) != before["unstepped"]
            assert_state(run.state(), expected if done else before, "after Ctrl+C:")
            if done:
                run = Run(kind, filled=True)
                held = run.gradients()
            assert all(one is two for one, two in zip(run.gradients(), held, strict=True))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
    assert interrupted > 0

"""What methods remember stays where it is, so that a captured graph finds it: over steps, loads and resets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from multitask import NEEDED, Net, assert_equal, batch
from torch import Tensor

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import Method

#: Arguments of methods whose every step needs something of the user's.
MORE: dict[str, dict[str, Any]] = {
    **NEEDED,
    "auto_lambda": {"inner_lr": 0.1},
    "moml": {"inner_lr": 0.1},
    "dwa": {"window": 2},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, MORE.get(name, {})) for name in mtl_ops.methods.available()},
    "moco, softmax": ("moco", {"projection": "softmax"}),
    "auto_lambda, softmax": ("auto_lambda", {"inner_lr": 0.1, "softmax": True}),
    "averaged memory": ("momentum", {"method": "gradvac", "second": "pseudo_adam"}),
    "smoothed memory": ("cr_mogm", {"method": "gradnorm"}),
}
#: Those that remember something between steps, if every tensor that is found in them is counted.
REMEMBER = 20


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in an object, its containers and the methods that it holds."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Method):
        # what was handed over from one half of a step to the other is no memory
        return tensors_in({k: v for k, v in vars(value).items() if k != "_excess"})
    if isinstance(value, dict):
        return [one for key in value for one in tensors_in(value[key])]
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in tensors_in(item)]
    return []


class Run:
    """A network and a method, and where the method keeps its memory."""

    def __init__(self, variant: str) -> None:
        name, arguments = VARIANTS[variant]
        self.net, self.method = Net(), mtl_ops.methods.get(name, **arguments)
        params = torch.optim.SGD(self.net.parameters(), lr=0.01)
        tasks = ["a", "b", "c"]
        self.optimizer = MultiTaskOptimizer(params, self.method, tasks=tasks)
        self.given: dict[str, Tensor] = {}
        if name in ("auto_lambda", "moml"):
            generator = torch.Generator().manual_seed(4)
            self.given["cross_gram"] = torch.randn(3, 2, generator=generator, dtype=torch.float64)

    def steps(self, numbers: range) -> None:
        """Some steps, whose losses the method sees once more if it asks for that."""
        for number in numbers:
            self.optimizer.zero_grad()
            losses = self.net.losses(batch(number))
            self.optimizer.backward(losses, **self.given)
            self.optimizer.step()
            if self.method.observes and number % 2:
                self.optimizer.observe(self.net.losses(batch(number)))

    def held(self) -> list[Tensor]:
        """The memory."""
        progress = self.optimizer._merger.progress
        return [*tensors_in(self.method), *tensors_in(progress.times_skipped)]

    def places(self) -> list[int]:
        """Where it is."""
        return [tensor.data_ptr() for tensor in self.held()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_stays_where_it_is(variant: str) -> None:
    torch.manual_seed(0)
    run = Run(variant)
    run.steps(range(2))
    held, places = run.held(), run.places()  # held, so that no other tensor takes its place
    fresh = copy.deepcopy(Run(variant).method.state_dict())
    assert len(held) >= 1
    run.steps(range(2, 5))
    assert run.places() == places
    state = copy.deepcopy(run.optimizer.state_dict())
    values = [tensor.clone() for tensor in held]
    run.steps(range(5, 6))
    run.optimizer.load_state_dict(copy.deepcopy(state))
    assert run.places() == places
    assert_equal(run.held(), values)
    run.method.reset()
    assert run.places() == places
    found = run.method.state_dict()
    assert str(found) == str(fresh)  # as newly made
    run.steps(range(6, 8))
    assert run.places() == places
    bare = torch.optim.SGD(run.net.parameters(), lr=0.01).state_dict()
    if not run.method.learns:  # has no group of its own there
        run.optimizer.load_state_dict(bare)
        assert run.places() == places


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reset_and_a_new_method_take_the_same_steps(variant: str) -> None:
    torch.manual_seed(0)
    run, other = Run(variant), Run(variant)
    run.steps(range(3))
    run.method.reset()
    run.net.load_state_dict(other.net.state_dict())
    for one in (run, other):
        torch.manual_seed(1)
        one.steps(range(3))
    assert_equal(run.net.parameters(), other.net.parameters())
    assert_equal(tensors_in(run.method), tensors_in(other.method))


def test_most_of_the_memories_are_found() -> None:
    found = 0
    for variant in VARIANTS:
        run = Run(variant)
        run.steps(range(2))
        found += len(run.held()) > 1 and not run.method.learns
    assert found >= REMEMBER


@pytest.mark.parametrize("name", ["gradvac", "gradnorm", "dwa", "famo", "moco", "excess_mtl"])
def test_other_tasks_after_a_reset(name: str) -> None:
    """Memory that is kept does not keep a method from other tasks."""
    method = mtl_ops.methods.get(name)
    for tasks in (2, 3):
        rows = torch.randn(tasks, 4, generator=torch.Generator().manual_seed(tasks))
        losses = torch.arange(1.0, tasks + 1)
        torch.manual_seed(0)
        for _ in range(2):
            merged = mtl_ops.merge(rows, method, losses=losses)
        expected = mtl_ops.methods.get(name)
        torch.manual_seed(0)
        for _ in range(2):
            wanted = mtl_ops.merge(rows, expected, losses=losses)
        assert torch.equal(merged, wanted)
        method.reset()


@pytest.mark.parametrize("name", ["gradnorm", "moco", "dwa"])
def test_memory_made_in_inference_mode_is_usable_outside(name: str) -> None:
    method, rows = mtl_ops.methods.get(name), torch.eye(2)
    with torch.inference_mode():
        mtl_ops.merge(rows, method, losses=torch.ones(2))
    mtl_ops.merge(rows, method, losses=torch.ones(2))
    method.reset()


@pytest.mark.parametrize("name", ["graddrop", "dwa"])
def test_counts_of_older_checkpoints_are_numbers(name: str) -> None:
    rows, losses = torch.eye(2), torch.ones(2)
    for warm in (False, True):
        method = mtl_ops.methods.get(name)
        if warm:
            mtl_ops.merge(rows, method, losses=losses)
        state = {**method.state_dict(), "calls": 3}
        method.load_state_dict(state)
        mtl_ops.merge(rows, method, losses=losses)
        assert method.calls.item() == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["gradvac", "gradnorm", "dwa", "graddrop", "moco", "famo"])
def test_memory_is_not_made_in_a_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_ops.ops.capture._stream_is_captured", lambda: True)
    with pytest.raises(RuntimeError, match="should take a step before one is captured"):
        mtl_ops.merge(torch.eye(2), name, losses=torch.ones(2))

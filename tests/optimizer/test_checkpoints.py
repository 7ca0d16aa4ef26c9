"""Saved, loaded, pickled, copied, and interrupted: training goes on as if nothing had happened."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import NAMES, Drawn, Net, assert_equal, batch, every_method, method, train, wrap

from mtl_ops import MultiTaskOptimizer


def saved(state: Any) -> Any:
    """Through a file, as the safe loader reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def make(name: str = "drawn", **options: Any) -> tuple[Net, MultiTaskOptimizer]:
    net = Net()
    chosen = Drawn() if name == "drawn" else method(name)
    generator = torch.Generator().manual_seed(3)
    inner = {"weight_decay": 0.01}
    optimizer = wrap(
        net, chosen, torch.optim.AdamW, inner_options=inner, generator=generator, **options
    )
    return net, optimizer


class TestStateDict:
    @pytest.mark.parametrize("name", ["drawn", *every_method()])
    def test_interrupted_run_resumes_bit_for_bit(self, name: str) -> None:
        whole, optimizer = make(name)
        train(whole, optimizer, range(8))

        first, optimizer_first = make(name)
        train(first, optimizer_first, range(4))
        state = saved({"net": first.state_dict(), "optimizer": optimizer_first.state_dict()})
        second, optimizer_second = make(name)
        second.load_state_dict(state["net"])
        optimizer_second.load_state_dict(state["optimizer"])
        train(second, optimizer_second, range(4, 8))

        assert_equal(second.parameters(), whole.parameters())
        found, expected_weights = optimizer_second.report.weights, optimizer.report.weights
        assert (found is None) == (expected_weights is None)
        if found is not None:
            torch.testing.assert_close(found, expected_weights, rtol=0, atol=0, equal_nan=True)
        resumed, expected = optimizer_second.state_dict(), optimizer.state_dict()
        assert_equal(leaves(resumed), leaves(expected))

    def test_is_loaded_into_the_same_run_to_go_back(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(3))
        state = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        train(net, optimizer, range(3, 6))
        expected = [param.clone() for param in net.parameters()]
        net.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        train(net, optimizer, range(3, 6))
        assert_equal(net.parameters(), expected)

    def test_loading_does_not_alias_the_given_state(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(3))
        state = saved(optimizer.state_dict())
        untouched = copy.deepcopy(state["tasks"])
        optimizer.load_state_dict(state)
        train(net, optimizer, range(3))
        assert_equal(leaves(state["tasks"]), leaves(untouched))

    def test_task_weights_go_on_at_the_right_step(self) -> None:
        seen: list[int] = []

        def schedule(step: int) -> list[float]:
            seen.append(step)
            return [1.0, 1.0, 1.0]

        net, optimizer = make("mean", task_weights=schedule)
        train(net, optimizer, range(3))
        resumed, other = make("mean", task_weights=schedule)
        other.load_state_dict(optimizer.state_dict())
        train(resumed, other, range(2))
        assert seen == [0, 1, 2, 3, 4]

    def test_counts_of_skipped_tasks_go_on(self) -> None:
        def spoil(net: Net, optimizer: MultiTaskOptimizer) -> list[int]:
            losses = net.losses(batch())
            optimizer.backward({**losses, "b": losses["b"] * torch.nan})
            counts: list[int] = optimizer.report.times_skipped.tolist()
            return counts

        net, optimizer = make("mean")
        assert spoil(net, optimizer) == [0, 1, 0]
        resumed, other = make("mean")
        other.load_state_dict(saved(optimizer.state_dict()))
        assert spoil(resumed, other) == [0, 2, 0]

    def test_state_of_a_bare_optimizer_is_accepted(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(2))
        bare = torch.optim.AdamW(Net().parameters(), lr=0.7)
        optimizer.load_state_dict(bare.state_dict())
        assert optimizer.param_groups[0]["lr"] == 0.7
        assert optimizer.method.calls is None
        assert optimizer.state_dict()["tasks"]["steps"] == 0

    def test_inner_optimizer_reads_the_state(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(2))
        bare = torch.optim.AdamW(net.parameters(), lr=0.7)
        bare.load_state_dict(optimizer.state_dict())
        assert bare.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert len(bare.state) == len(optimizer.state)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (lambda s: {**s, "method": "mgda"}, "should be of method 'drawn'. Found one of 'mgda'"),
            (lambda s: {**s, "names": ["x", "y", "z"]}, r"tasks \['a', 'b', 'c'\]. Found \['x'"),
            (lambda s: {**s, "names": None}, r"tasks \['a', 'b', 'c'\]. Found 3 without names"),
        ],
    )
    def test_refuses_what_is_not_its_own_and_stays_as_it_was(
        self, changed: Callable[[dict[str, Any]], dict[str, Any]], message: str
    ) -> None:
        net, optimizer = make()
        train(net, optimizer, range(2))
        before = copy.deepcopy(optimizer.state_dict())
        wrong = {**before, "tasks": changed(before["tasks"])}
        wrong["param_groups"] = [{**group, "lr": 9.0} for group in before["param_groups"]]
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(wrong)
        assert_equal(leaves(optimizer.state_dict()), leaves(before))

    def test_refuses_other_groups_and_stays_as_it_was(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(2))
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError, match="parameter group"):
            optimizer.load_state_dict({**before, "param_groups": []})
        assert_equal(leaves(optimizer.state_dict()), leaves(before))

    def test_before_the_first_step(self) -> None:
        net, optimizer = make()
        _, other = make(tasks=NAMES)
        other.load_state_dict(saved(optimizer.state_dict()))
        train(net, optimizer, range(1))


class TestCopies:
    @pytest.mark.parametrize(
        "duplicate",
        [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
        ids=["deepcopy", "pickle"],
    )
    def test_model_and_optimizer_together_go_on_alike(
        self, duplicate: Callable[[Any], Any]
    ) -> None:
        net, optimizer = make()
        train(net, optimizer, range(3))
        net_copy, optimizer_copy = duplicate((net, optimizer))
        train(net_copy, optimizer_copy, range(3, 6))
        copied = [param.clone() for param in net_copy.parameters()]
        assert net_copy.trunk[0].weight is not net.trunk[0].weight
        train(net, optimizer, range(3, 6))  # the copy has not drawn from the original's generator
        assert_equal(net.parameters(), copied)

    def test_copy_of_the_optimizer_alone_has_its_own_parameters(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(2))
        before = [param.clone() for param in net.parameters()]
        other = copy.deepcopy(optimizer)
        for param in other.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        other.step()
        assert_equal(net.parameters(), before)

    def test_copy_keeps_hooks_out_and_schedulers_step_unpatched(self) -> None:
        net, optimizer = make()
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        train(net, optimizer, range(1))
        scheduler.step()
        other = copy.deepcopy(optimizer)
        assert "step" not in vars(other)
        pickle.dumps(optimizer)

    def test_copy_does_not_hold_the_last_losses(self) -> None:
        net, optimizer = make()
        train(net, optimizer, range(1))
        assert optimizer.report.losses is not None
        assert copy.deepcopy(optimizer).report.losses is None

    def test_shared_parameters_of_a_copy_are_the_copys(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", shared=net.trunk.parameters())
        train(net, optimizer, range(1))
        net_copy, optimizer_copy = copy.deepcopy((net, optimizer))
        train(net, optimizer, range(1, 3))
        train(net_copy, optimizer_copy, range(1, 3))
        assert_equal(net.parameters(), net_copy.parameters())


def leaves(state: Any) -> list[torch.Tensor]:
    """All tensors and numbers of a state, in order."""
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) for leaf in leaves(state[key])]
    if isinstance(state, (list, tuple)):
        return [leaf for item in state for leaf in leaves(item)]
    if isinstance(state, torch.Tensor):
        return [state]
    return [torch.tensor(float(state))] if isinstance(state, (bool, int, float)) else []

"""To everything that looks it is a ``torch.optim.Optimizer``: groups, hooks, ``zero_grad``, ``repr``."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, grads, train, wrap
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from mtl_ops import MultiTaskOptimizer


def test_is_an_optimizer_with_the_inner_ones_groups_state_and_defaults() -> None:
    optimizer = wrap(Net(), inner=torch.optim.Adam)
    inner = optimizer.optimizer
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults


def test_delegates_to_new_groups_after_load_state_dict() -> None:
    net = Net()
    optimizer = wrap(net, inner=torch.optim.Adam)
    train(net, optimizer, range(2))
    before = optimizer.param_groups
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups is optimizer.optimizer.param_groups
    assert optimizer.param_groups is not before  # torch makes new ones
    assert optimizer.state is optimizer.optimizer.state
    optimizer.param_groups[0]["lr"] = 0.0
    start = [param.clone() for param in net.parameters()]
    train(net, optimizer, range(2))
    assert_same(net.parameters(), start)


def test_named_parameters_keep_their_names() -> None:
    net = Net()
    optimizer = MultiTaskOptimizer(torch.optim.SGD(net.named_parameters(), lr=0.1), "sum")
    train(net, optimizer, range(1))
    names = [name for name, _ in net.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names


class TestParamGroups:
    def test_each_group_has_its_own_options(self) -> None:
        def groups(net: Net) -> list[dict[str, Any]]:
            decayed = [p for p in net.parameters() if p.dim() > 1]
            rest = [p for p in net.parameters() if p.dim() < 2]
            return [
                {"params": rest, "weight_decay": 0.0},
                {"params": decayed, "weight_decay": 0.3, "lr": 0.01},
            ]

        wrapped, bare = Net(), Net()
        optimizer = MultiTaskOptimizer(torch.optim.AdamW(groups(wrapped), lr=0.1), "sum")
        other = torch.optim.AdamW(groups(bare), lr=0.1)
        for step in range(10):
            optimizer.zero_grad()
            optimizer.backward(wrapped.losses(batch(step)))
            optimizer.step()
            other.zero_grad()
            sum(bare.losses(batch(step)).values()).backward()
            other.step()
        assert_same(wrapped.parameters(), bare.parameters())

    def test_order_of_groups_and_parameters_does_not_matter(self) -> None:
        def run(order: list[int], method: str) -> Net:
            net = Net()
            params = list(net.parameters())
            groups = [{"params": [params[i]]} for i in order]
            optimizer = MultiTaskOptimizer(torch.optim.SGD(groups, lr=0.1), method, max_norm=0.5)
            train(net, optimizer, range(5))
            return net

        count = len(list(Net().parameters()))
        forward = run(list(range(count)), "mean")
        backward = run(list(reversed(range(count))), "mean")
        assert_same(forward.parameters(), backward.parameters())

    def test_added_group_is_trained_and_merged(self) -> None:
        net, all_at_once = Net(), Net()
        optimizer = wrap([*net.trunk.parameters(), *net.heads.parameters()], "mean")
        other = wrap(all_at_once, "mean")
        before = [p.clone() for p in net.neck.parameters()]
        optimizer.backward(net.losses(batch(0)))
        assert all(p.grad is None for p in net.neck.parameters())
        optimizer.zero_grad()
        optimizer.add_param_group({"params": list(net.neck.parameters()), "lr": 0.05})
        assert len(optimizer.optimizer.param_groups) == 2
        train(net, optimizer, range(5))
        train(all_at_once, other, range(5))
        assert_same(net.parameters(), all_at_once.parameters())
        assert all(
            not torch.equal(a, b) for a, b in zip(before, net.neck.parameters(), strict=True)
        )

    def test_changed_learning_rate_takes_effect(self) -> None:
        net = Net()
        optimizer = wrap(net)
        before = [param.clone() for param in net.parameters()]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        train(net, optimizer, range(2))
        assert_same(net.parameters(), before)


class TestZeroGrad:
    def test_sets_to_none_by_default(self) -> None:
        net = Net()
        optimizer = wrap(net)
        optimizer.backward(net.losses(batch()))
        optimizer.zero_grad()
        assert all(param.grad is None for param in net.parameters())

    def test_fills_with_zeros(self) -> None:
        net = Net()
        optimizer = wrap(net)
        optimizer.backward(net.losses(batch()))
        kept = [param.grad for param in net.parameters()]
        optimizer.zero_grad(set_to_none=False)
        for param, gradient in zip(net.parameters(), kept, strict=True):
            assert param.grad is gradient
            assert not param.grad.any()


class TestHooks:
    def test_step_hooks_see_the_wrapper_once_a_step_and_can_be_removed(self) -> None:
        net = Net()
        optimizer = wrap(net)
        seen: list[tuple[str, object]] = []
        handles = [
            optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o))),
            optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", o))),
        ]
        train(net, optimizer, range(2))
        assert seen == [("pre", optimizer), ("post", optimizer)] * 2
        for handle in handles:
            handle.remove()
        train(net, optimizer, range(1))
        assert len(seen) == 4

    def test_pre_hook_sees_the_merged_gradient_and_may_change_it(self) -> None:
        net = Net()
        optimizer = wrap(net)
        before = [param.clone() for param in net.parameters()]

        def wipe(o: Optimizer, args: Any, kwargs: Any) -> None:
            for group in o.param_groups:
                for param in group["params"]:
                    assert param.grad is not None
                    param.grad.zero_()

        optimizer.register_step_pre_hook(wipe)
        train(net, optimizer, range(2))
        assert_same(net.parameters(), before)

    def test_global_hooks_fire_once(self) -> None:
        net = Net()
        optimizer = wrap(net)
        fired: list[str] = []
        handles = [
            register_optimizer_step_pre_hook(lambda *_: fired.append("pre")),
            register_optimizer_step_post_hook(lambda *_: fired.append("post")),
        ]
        try:
            train(net, optimizer, range(1))
        finally:
            for handle in handles:
                handle.remove()
        assert fired == ["pre", "post"]

    def test_state_dict_hooks(self) -> None:
        net = Net()
        optimizer = wrap(net, inner_options={"momentum": 0.9})
        train(net, optimizer, range(1))
        calls: list[tuple[str, object]] = []
        optimizer.register_state_dict_pre_hook(lambda o: calls.append(("save", o)))

        def after(o: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            calls.append(("saved", o))
            return {**state, "note": "kept"}

        optimizer.register_state_dict_post_hook(after)
        state = optimizer.state_dict()
        assert calls == [("save", optimizer), ("saved", optimizer)]
        assert state["note"] == "kept"
        assert "tasks" in state

        def before(o: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            calls.append(("load", o))
            groups = [{**group, "lr": 0.5} for group in given["param_groups"]]
            return {**given, "param_groups": groups}

        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(lambda o: calls.append(("loaded", o)))
        optimizer.load_state_dict(state)
        assert calls[2:] == [("load", optimizer), ("loaded", optimizer)]
        assert optimizer.param_groups[0]["lr"] == 0.5

    def test_hooks_run_in_the_order_asked_for(self) -> None:
        optimizer = wrap(Net())
        order: list[int] = []
        optimizer.register_state_dict_pre_hook(lambda o: order.append(1))
        optimizer.register_state_dict_pre_hook(lambda o: order.append(0), prepend=True)
        optimizer.state_dict()
        assert order == [0, 1]

    def test_hooks_of_parameters_see_the_gradient_of_each_task(self) -> None:
        net, doubled = Net(), Net()
        calls = 0

        def double(gradient: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return 2 * gradient

        doubled.trunk[0].weight.register_hook(double)
        for model in (net, doubled):
            wrap(model).backward(model.losses(batch()))
        torch.testing.assert_close(doubled.trunk[0].weight.grad, 2 * net.trunk[0].weight.grad)
        torch.testing.assert_close(doubled.trunk[0].bias.grad, net.trunk[0].bias.grad)
        assert calls == len(NAMES)


def test_clip_grad_norm_after_backward() -> None:
    net = Net()
    optimizer = wrap(net)
    optimizer.backward(net.losses(batch()))
    before = torch.cat([g.flatten() for g in grads(net)]).norm()
    found = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    torch.testing.assert_close(found, before)
    after = torch.cat([g.flatten() for g in grads(net)]).norm()
    assert after.item() == pytest.approx(0.1, rel=1e-4)


def test_repr_shows_method_and_inner_optimizer() -> None:
    text = repr(wrap(Net(), "mean", torch.optim.AdamW))
    assert text.startswith("MultiTaskOptimizer(Mean()")
    assert "AdamW" in text


def test_averaged_model() -> None:
    net = Net()
    optimizer = wrap(net)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    for step in range(3):
        train(net, optimizer, [step])
        averaged.update_parameters(net)
    assert all(torch.isfinite(param).all() for param in averaged.parameters())


def test_distributed_checkpoint_reads_its_state() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net = Net()
    optimizer = wrap(net, inner_options={"momentum": 0.9})
    train(net, optimizer, range(2))
    state = get_optimizer_state_dict(net, optimizer)
    names = {name for name, _ in net.named_parameters()}
    assert set(state["state"]) == names


def test_fused_and_foreach_inner_optimizers() -> None:
    plain = Net()
    train(plain, wrap(plain, "mean", torch.optim.Adam), range(5))
    for options in ({"fused": True}, {"foreach": True}, {"differentiable": False}):
        net = Net()
        train(net, wrap(net, "mean", torch.optim.Adam, inner_options=options), range(5))
        assert_same(net.parameters(), plain.parameters())


@pytest.mark.parametrize("inner", [None, 3, nn.Linear(1, 1)], ids=["None", "int", "module"])
def test_needs_an_optimizer(inner: Any) -> None:
    with pytest.raises(TypeError, match="Parameter `optimizer` should be an optimizer"):
        MultiTaskOptimizer(inner)


def test_does_not_wrap_itself() -> None:
    with pytest.raises(TypeError, match=r"Parameter `optimizer`.*Found MultiTaskOptimizer"):
        MultiTaskOptimizer(wrap(Net()))


class TestUnknownAttributes:
    def test_go_to_the_inner_optimizer(self) -> None:
        class Modes(torch.optim.SGD):
            training = False

            def train(self) -> None:
                self.training = True

        optimizer = wrap(Net(), inner=Modes)
        optimizer.train()
        assert optimizer.optimizer.training
        assert optimizer.training
        assert hasattr(optimizer, "train")
        assert not hasattr(optimizer, "eval")
        with pytest.raises(
            AttributeError, match="'MultiTaskOptimizer' object has no attribute 'eval'"
        ):
            optimizer.eval()

    def test_private_ones_do_not(self) -> None:
        optimizer = wrap(Net())
        optimizer.optimizer._secret = 3
        assert not hasattr(optimizer, "_secret")

    def test_copies_and_pickles(self) -> None:
        optimizer = wrap(Net())
        for other in (
            copy.copy(optimizer),
            copy.deepcopy(optimizer),
            pickle.loads(pickle.dumps(optimizer)),
        ):
            assert other.optimizer.defaults == optimizer.defaults
            assert not hasattr(other, "train")
        empty = MultiTaskOptimizer.__new__(MultiTaskOptimizer)
        assert not hasattr(empty, "train")


@pytest.mark.parametrize("name", ["Lookahead", "ScheduleFreeWrapper"])
def test_state_without_parameter_groups(name: str) -> None:
    others = pytest.importorskip("pytorch_optimizer")

    def make(net: Net) -> MultiTaskOptimizer:
        inner = getattr(others, name)(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
        return MultiTaskOptimizer(inner, "gradvac")

    check_state_without_groups(make)


def test_state_in_a_form_of_its_own() -> None:
    class Slow(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {"inner": super().state_dict()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict["inner"])

    check_state_without_groups(
        lambda net: wrap(net, "gradvac", Slow, inner_options={"momentum": 0.9})
    )


def check_state_without_groups(make: Any) -> None:
    """Resumes with the same bits."""
    net, again = Net(), Net()
    optimizer = make(net)
    if hasattr(optimizer, "train"):
        optimizer.train()
    train(net, optimizer, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    again.load_state_dict(net.state_dict())
    resumed = make(again)
    if hasattr(resumed, "train"):
        resumed.train()
    resumed.load_state_dict(state)
    assert "tasks" in state
    for one, two in ((net, optimizer), (again, resumed)):
        torch.manual_seed(0)
        train(one, two, range(3, 6))
    assert_same(net.parameters(), again.parameters(), rtol=0, atol=0)

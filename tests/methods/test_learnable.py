"""Uncertainty weighting and IMTL-L, whose numbers the inner optimizer learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_same, batch, wrap
from resuming import assert_resumes, saved_and_loaded, take_steps
from scalarised import assert_derivative, assert_needs_losses, some_losses
from torch import Tensor
from torch.nn import Parameter

import mtl_ops
from mtl_ops.methods import IMTLL, LearnableMethod, Uncertainty


def uncertainty(losses: Tensor, s: Tensor) -> Tensor:
    return (0.5 * (-s).exp() * losses + 0.5 * s).sum()


def imtl_l(losses: Tensor, s: Tensor) -> Tensor:
    return (s.exp() * losses - s).sum()


BOTH = [(Uncertainty, uncertainty), (IMTLL, imtl_l)]
both = pytest.mark.parametrize(("cls", "scalar"), BOTH, ids=lambda v: getattr(v, "__name__", ""))
each = pytest.mark.parametrize("cls", [Uncertainty, IMTLL])


@both
class TestFormulas:
    def test_are_derivatives(self, cls: type[LearnableMethod], scalar: Any) -> None:
        for losses in some_losses():
            method = cls()
            (s,) = method.learnable(len(losses), losses.device)
            with torch.no_grad():
                s.copy_(torch.linspace(-3, 2, len(losses)))
            exact = s.detach().double()
            assert_derivative(method.weights(None, losses), lambda x, s=exact: scalar(x, s), losses)
            method.add_grads(losses)
            leaf = exact.clone().requires_grad_()
            (expected,) = torch.autograd.grad(scalar(losses, leaf), leaf)
            torch.testing.assert_close(
                method.slope(exact, losses), expected, rtol=1e-12, atol=1e-12
            )
            assert s.grad is not None
            torch.testing.assert_close(s.grad, expected.float())

    def test_trains_as_autograd_does(self, cls: type[LearnableMethod], scalar: Any) -> None:
        ours, theirs = Net(), Net()
        optimizer = wrap(ours, cls(), torch.optim.Adam, lr=0.01, tasks=NAMES)
        s = Parameter(torch.zeros(3))
        peer = torch.optim.Adam([*theirs.parameters(), s], lr=0.01)
        for step in range(20):
            take_steps_without_absence(ours, optimizer, step)
            peer.zero_grad()
            losses = torch.stack([x.squeeze() for x in theirs.losses(batch(step)).values()])
            scalar(losses, s.double()).backward()
            peer.step()
        assert_same(ours.parameters(), theirs.parameters(), rtol=1e-5, atol=1e-7)
        assert isinstance(optimizer.method, LearnableMethod)
        assert optimizer.method.learned is not None
        torch.testing.assert_close(optimizer.method.learned, s)

    def test_agrees_with_torchjd(self, cls: type[LearnableMethod], scalar: Any) -> None:
        scalarization = pytest.importorskip("torchjd.scalarization")
        for losses in some_losses():
            peer = {Uncertainty: scalarization.UW, IMTLL: scalarization.IMTLL}[cls](len(losses))
            method = cls()
            assert_derivative(method.weights(None, losses), peer.double(), losses)


def take_steps_without_absence(net: Net, optimizer: Any, step: int) -> None:
    optimizer.zero_grad()
    optimizer.backward(net.losses(batch(step, like=net)))
    optimizer.step()


def test_imtl_l_is_twice_uncertainty() -> None:
    one, two = Uncertainty(init=-0.7), IMTLL(init=0.7)
    losses = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(2 * one.weights(None, losses), two.weights(None, losses))


@pytest.mark.parametrize(("cls", "fixed"), [(Uncertainty, torch.log), (IMTLL, lambda x: -x.log())])
def test_fixed_point(cls: type[LearnableMethod], fixed: Any) -> None:
    losses = torch.tensor([0.5, 4.0])
    method = cls()
    optimizer = torch.optim.SGD(method.learnable(2, losses.device), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        method.add_grads(losses.double())
        optimizer.step()
    assert method.learned is not None
    torch.testing.assert_close(method.learned.detach(), fixed(losses))


@each
class TestGroup:
    def test_is_there_from_the_start_if_the_tasks_are_known(
        self, cls: type[LearnableMethod]
    ) -> None:
        net = Net()
        optimizer = wrap(
            net, cls(init=0.3), torch.optim.AdamW, inner_options={"weight_decay": 0.1}, tasks=NAMES
        )
        group = optimizer.param_groups[-1]
        assert [tuple(p.shape) for p in group["params"]] == [(3,)]
        assert group["weight_decay"] == 0.0
        assert group["lr"] == 0.05
        assert optimizer.param_groups[0]["weight_decay"] == 0.1
        assert torch.equal(group["params"][0].detach(), torch.full((3,), 0.3))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        take_steps(net, optimizer, range(2))
        scheduler.step()
        assert optimizer.param_groups[-1]["lr"] == 0.025

    def test_comes_with_the_first_backward_otherwise(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls())
        assert len(optimizer.param_groups) == 1
        take_steps(net, optimizer, range(3))
        assert len(optimizer.param_groups) == 2

    def test_does_not_come_after_a_scheduler(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls())
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        with pytest.raises(ValueError, match="`tasks` should be given with method"):
            optimizer.backward(net.losses(batch()))

    def test_optimizer_without_weight_decay(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls(), torch.optim.Rprop, tasks=NAMES)
        assert "weight_decay" not in optimizer.param_groups[-1]

    def test_absent_and_weightless_tasks_get_no_gradient(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls(), tasks=NAMES, task_weights={"b": 0.0})
        optimizer.backward({**net.losses(batch()), "a": None})
        assert optimizer.report.weights is not None
        assert optimizer.report.weights[0, :2].tolist() == [0.0, 0.0]
        (s,) = optimizer.param_groups[-1]["params"]
        assert s.grad[:2].tolist() == [0.0, 0.0]
        assert s.grad[2] != 0.0

    def test_gradients_add_up_and_are_cleared(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls(), tasks=NAMES)
        (s,) = optimizer.param_groups[-1]["params"]
        optimizer.backward(net.losses(batch()))
        once = s.grad.clone()
        optimizer.backward(net.losses(batch()))
        torch.testing.assert_close(s.grad, 2 * once)
        optimizer.zero_grad()
        assert s.grad is None

    def test_clipping_takes_the_same_gradient(self, cls: type[LearnableMethod]) -> None:
        found = []
        for options in ({}, {"max_norm": 1e-3}, {"max_task_norm": 1e-3}, {"clip_value": 1e-4}):
            net = Net()
            optimizer = wrap(net, cls(), tasks=NAMES, **options)
            optimizer.backward(net.losses(batch()))
            found.append(optimizer.param_groups[-1]["params"][0].grad)
        for gradient in found[1:]:
            assert torch.equal(gradient, found[0])

    def test_micro_batches(self, cls: type[LearnableMethod]) -> None:
        whole, parts = Net(), Net()
        one, two = (wrap(net, cls(), tasks=NAMES) for net in (whole, parts))
        one.backward(whole.losses(batch()))
        halves = batch().chunk(2)
        two.accumulate({k: v / 2 for k, v in parts.losses(halves[0]).items()})
        two.backward({k: v / 2 for k, v in parts.losses(halves[1]).items()})
        torch.testing.assert_close(
            one.param_groups[-1]["params"][0].grad, two.param_groups[-1]["params"][0].grad
        )
        assert_same(
            [p.grad for p in whole.parameters()],
            [p.grad for p in parts.parameters()],
            rtol=1e-10,
            atol=1e-12,
        )

    def test_grad_scaler(self, cls: type[LearnableMethod]) -> None:
        nets = []
        for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
            net = Net(torch.float32)
            optimizer = wrap(net, cls(), tasks=NAMES, grad_scaler=scaler)
            for step in range(3):
                optimizer.zero_grad()
                optimizer.backward(net.losses(batch(step, like=net)))
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
            assert isinstance(optimizer.method, LearnableMethod)
            nets.append([*net.parameters(), optimizer.method.learned])
        assert_same(nets[0], nets[1], rtol=1e-5, atol=1e-6)

    def test_bare_state_is_accepted(self, cls: type[LearnableMethod]) -> None:
        net, other = Net(), Net()
        bare = torch.optim.Adam(net.parameters(), lr=0.01)
        sum(loss.sum() for loss in net.losses(batch()).values()).backward()
        bare.step()
        optimizer = wrap(other, cls(init=0.5), torch.optim.Adam, lr=0.02, tasks=NAMES)
        take_steps(other, optimizer, range(2))
        optimizer.load_state_dict(saved_and_loaded(bare.state_dict()))
        assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02]
        (s,) = optimizer.param_groups[-1]["params"]
        assert torch.equal(s.detach(), torch.full((3,), 0.5))
        assert s not in optimizer.state
        assert len(optimizer.state) == len(list(other.parameters()))
        take_steps(other, optimizer, range(2))

    def test_state_from_before_the_tasks_were_known(self, cls: type[LearnableMethod]) -> None:
        early = wrap(Net(), cls(), torch.optim.Adam)
        net = Net()
        optimizer = wrap(net, cls(init=0.5), torch.optim.Adam, tasks=NAMES)
        take_steps(net, optimizer, range(2))
        optimizer.load_state_dict(saved_and_loaded(early.state_dict()))
        assert len(optimizer.param_groups) == 2
        assert not optimizer.state
        (s,) = optimizer.param_groups[-1]["params"]
        assert torch.equal(s.detach(), torch.full((3,), 0.5))

    def test_state_of_another_number_of_groups_is_refused(self, cls: type[LearnableMethod]) -> None:
        net = Net()
        optimizer = wrap(net, cls(), tasks=NAMES)
        other = wrap([*Net().parameters()], "sum")
        other.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
        other.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
        with pytest.raises(ValueError, match="parameter groups"):
            optimizer.load_state_dict(other.optimizer.state_dict())

    def test_group_before_others_survives_a_bare_state(self, cls: type[LearnableMethod]) -> None:
        net, extra = Net(), torch.zeros(2, requires_grad=True)
        optimizer = wrap(net, cls(), torch.optim.Adam, tasks=NAMES)
        optimizer.add_param_group({"params": [extra], "lr": 0.5})
        bare = torch.optim.Adam([{"params": net.parameters()}, {"params": [extra]}], lr=0.125)
        optimizer.load_state_dict(bare.state_dict())
        assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.05, 0.125]
        assert optimizer.param_groups[1]["params"] == [
            optimizer.method.learnable(3, extra.device)[0]
        ]


@each
class TestMemory:
    @pytest.mark.parametrize("known", [True, False], ids=["tasks known", "tasks not known"])
    @pytest.mark.parametrize("inner", [torch.optim.SGD, torch.optim.Adam])
    def test_resumes(self, cls: type[LearnableMethod], known: bool, inner: Any) -> None:
        options = {"tasks": NAMES} if known else {}
        momentum = {"inner_options": {"momentum": 0.9}} if inner is torch.optim.SGD else {}
        assert_resumes(cls, inner=inner, **momentum, **options)

    def test_a_loaded_state_reaches_the_parameter_that_is_trained(
        self, cls: type[LearnableMethod]
    ) -> None:
        net = Net()
        optimizer = wrap(net, cls(), tasks=NAMES)
        (s,) = optimizer.param_groups[-1]["params"]
        state = optimizer.method.state_dict()
        state["learned"] = torch.tensor([0.1, 0.2, 0.3])
        optimizer.method.load_state_dict(state)
        assert torch.equal(s.detach(), torch.tensor([0.1, 0.2, 0.3]))
        optimizer.method.reset()
        assert torch.equal(s.detach(), torch.zeros(3))
        assert optimizer.param_groups[-1]["params"] == [s]

    def test_empty_state(self, cls: type[LearnableMethod]) -> None:
        method = cls()
        state = saved_and_loaded(method.state_dict())
        assert state == {"learned": None}
        (s,) = method.learnable(2, torch.device("cpu"))
        with torch.no_grad():
            s.fill_(3.0)
        method.load_state_dict(state)
        assert torch.equal(s.detach(), torch.zeros(2))
        with pytest.raises(ValueError, match="should hold \\['learned'\\]"):
            method.load_state_dict({"logits": None})


@each
class TestWithoutOptimizer:
    def test_merge_uses_the_current_values(self, cls: type[LearnableMethod]) -> None:
        gradients = torch.eye(2, dtype=torch.float64)
        method = cls(init=0.4)
        merged = mtl_ops.merge(gradients, method, losses=torch.tensor([1.0, 2.0]))
        torch.testing.assert_close(merged, method.weights(None, torch.ones(2)))

    def test_backward_fills_the_gradients_of_ones_own_optimizer(
        self, cls: type[LearnableMethod]
    ) -> None:
        net, method = Net(), cls()
        optimizer = torch.optim.SGD(method.learnable(3, torch.device("cpu")), lr=0.1)
        mtl_ops.backward(net.losses(batch()), net.parameters(), method)
        before = method.weights(None, torch.ones(3))
        optimizer.step()
        assert not torch.equal(method.weights(None, torch.ones(3)), before)


@each
def test_leaves_out(cls: type[LearnableMethod]) -> None:
    for losses in some_losses(5):
        if len(losses) > 1:
            weights = cls(init=0.2).weights(None, torch.cat([losses[:-1], losses[:1] * torch.nan]))
            assert weights[-1] == 0.0
            assert (weights[:-1] > 0).all()
    assert_needs_losses(cls())


@each
def test_validation(cls: type[LearnableMethod]) -> None:
    with pytest.raises(ValueError, match="`init` should be finite"):
        cls(init=float("nan"))
    with pytest.raises(TypeError, match="`init` should be a number"):
        cls(init="0")  # type: ignore[arg-type]
    method = cls()
    method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match=r"the 2 tasks whose weights it learns\. Found 3"):
        method.weights(None, torch.ones(3))


def test_methods_that_learn_nothing_say_so() -> None:
    with pytest.raises(TypeError, match="learns nothing"):
        mtl_ops.methods.Sum().add_grads(torch.ones(2))
    assert mtl_ops.methods.Sum().learnable(2, torch.device("cpu")) == []

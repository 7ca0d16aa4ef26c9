"""Gradients that hold an Inf or a NaN, in all four modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import (
    NAMES,
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    grads,
    method,
    train,
    wrap,
)
from torch import Tensor

import mtl_ops
from mtl_ops import MultiTaskOptimizer


def broken_losses(net: Net, *broken: str, by: float = torch.nan) -> dict[str, Tensor]:
    """Losses whose value and gradient are not finite, for some tasks."""
    return {
        name: loss * by if name in broken else loss
        for name, loss in net.losses(batch(like=net)).items()
    }


def needs_gradients(name: str) -> bool:
    return method(name).needs == "gram"


class Spoilt(torch.autograd.Function):
    """A loss that is finite, and a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * torch.inf


class TestSkipTask:
    @pytest.mark.parametrize("by", [torch.nan, torch.inf, -torch.inf])
    def test_leaves_the_task_out(self, by: float, device: torch.device) -> None:
        net, other = Net(device=device), Net(device=device)
        optimizer = wrap(net, "mean")
        optimizer.backward(broken_losses(net, "a", by=by))
        wrap(other, "mean", tasks=NAMES).backward({**other.losses(batch(like=other)), "a": None})
        for (name, param), like in zip(net.named_parameters(), other.parameters(), strict=True):
            expected = torch.zeros_like(param) if like.grad is None else like.grad
            torch.testing.assert_close(param.grad, expected, msg=name)
        assert optimizer.report.skipped.tolist() == [True, False, False]
        assert optimizer.report.weights.tolist() == [[0.0, 0.5, 0.5]]

    def test_finite_loss_with_a_gradient_that_is_not(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean")
        losses = net.losses(batch())
        optimizer.backward({**losses, "b": Spoilt.apply(losses["b"])})
        assert optimizer.report.losses.isfinite().all()
        assert optimizer.report.skipped.tolist() == [False, True, False]
        assert all(gradient.isfinite().all() for gradient in grads(net))

    @pytest.mark.parametrize("name", every_method())
    def test_training_goes_on_with_every_method(self, name: str) -> None:
        net = Net()
        optimizer = wrap(net, method(name), lr=1e-3)
        for step in range(6):
            optimizer.zero_grad()
            losses = net.losses(batch(step))
            if step % 2:
                losses["c"] = losses["c"] * torch.inf
            optimizer.backward(losses)
            optimizer.step()
            assert all(param.isfinite().all() for param in net.parameters()), step

    @pytest.mark.parametrize("name", every_method())
    def test_all_tasks_broken_takes_no_step(self, name: str) -> None:
        net = Net()
        optimizer = wrap(net, method(name), lr=1e-3)
        train(net, optimizer, range(2))
        before = [param.clone() for param in net.parameters()]
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.backward(broken_losses(net, *NAMES))
            optimizer.step()
            assert_equal(net.parameters(), before)
        train(net, optimizer, range(2))
        assert all(param.isfinite().all() for param in net.parameters())
        assert not torch.equal(before[0], next(net.parameters()))

    def test_the_only_present_task_is_broken(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", tasks=NAMES)
        before = [param.clone() for param in net.parameters()]
        optimizer.backward({"b": broken_losses(net, "b")["b"]})
        optimizer.step()
        assert_equal(net.parameters(), before)

    def test_a_task_of_weight_zero_may_be_anything(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", task_weights={"b": 0.0}, max_norm=1.0)
        optimizer.backward(broken_losses(net, "b"))
        optimizer.step()
        assert not optimizer.report.skipped.any()
        assert not optimizer.report.times_skipped.any()
        assert all(param.isfinite().all() for param in net.parameters())

    def test_with_max_norm_and_max_task_norm(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean", max_norm=0.1, max_task_norm=1.0)
        optimizer.backward(broken_losses(net, "a", by=torch.inf))
        total = torch.cat([gradient.flatten() for gradient in grads(net)]).norm()
        assert total.item() == pytest.approx(0.1)

    def test_elements_are_not_made_finite_by_clip_value(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum", clip_value=1e-3)
        optimizer.backward(broken_losses(net, "a", by=torch.inf))
        assert optimizer.report.skipped.tolist() == [True, False, False]

    @pytest.mark.parametrize("granularity", ["tensor", "group"])
    def test_one_broken_tensor_breaks_the_task(self, granularity: Any) -> None:
        net = Net()
        optimizer = wrap(net, "mean", granularity=granularity)
        losses = net.losses(batch())
        losses["a"] = losses["a"] + net.trunk[2].bias.sum() * torch.nan
        optimizer.backward(losses)
        assert optimizer.report.skipped.tolist() == [True, False, False]
        assert (optimizer.report.weights[:, 0] == 0).all()
        assert all(gradient.isfinite().all() for gradient in grads(net))

    def test_lost_micro_batch_is_not_forgotten(self) -> None:
        # The NaN stays in .grad, whatever is added to it.
        net = Net()
        optimizer = wrap(net, "sum")
        before = [param.clone() for param in net.parameters()]
        optimizer.backward(broken_losses(net, *NAMES))
        optimizer.backward(net.losses(batch()))
        optimizer.step()
        assert_equal(net.parameters(), before)

    def test_lost_step_does_not_skip_the_next_one(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum")
        optimizer.backward(broken_losses(net, *NAMES))
        optimizer.step()
        optimizer.zero_grad()
        before = net.trunk[0].weight.clone()
        sum(net.losses(batch()).values()).backward()  # by hand, for once
        optimizer.step()
        assert not torch.equal(net.trunk[0].weight, before)

    def test_zero_grad_forgets_a_lost_gradient(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum")
        optimizer.backward(broken_losses(net, *NAMES))
        optimizer.zero_grad()
        before = net.trunk[0].weight.clone()
        sum(net.losses(batch()).values()).backward()
        optimizer.step()
        assert not torch.equal(net.trunk[0].weight, before)


class TestSkipStep:
    @pytest.mark.parametrize("name", every_method())
    def test_any_broken_task_skips_the_step(self, name: str) -> None:
        net = Net()
        optimizer = wrap(net, method(name), lr=1e-3, nonfinite="skip_step")
        before = [param.clone() for param in net.parameters()]
        optimizer.backward(broken_losses(net, "c"))
        optimizer.step()
        if needs_gradients(name):
            assert any(not gradient.isfinite().all() for gradient in grads(net))
            assert_equal(net.parameters(), before)
        assert all(param.isfinite().all() for param in net.parameters())

    def test_state_of_the_inner_optimizer_stays_as_it_was(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum", torch.optim.Adam, nonfinite="skip_step")
        train(net, optimizer, range(2))
        before = [value.clone() for state in optimizer.state.values() for value in state.values()]
        optimizer.zero_grad()
        optimizer.backward(broken_losses(net, "b"))
        optimizer.step()
        after = [value for state in optimizer.state.values() for value in state.values()]
        assert_equal(after, before)

    def test_finite_gradients_take_the_step(self) -> None:
        net, plain = Net(), Net()
        train(net, wrap(net, "sum", nonfinite="skip_step"), range(3))
        train(plain, wrap(plain, "sum", nonfinite="propagate"), range(3))
        assert_equal(net.parameters(), plain.parameters())


class TestRaise:
    @pytest.mark.parametrize("task", NAMES)
    def test_names_the_task_and_changes_nothing(self, task: str) -> None:
        net = Net()
        optimizer = wrap(net, "sum", nonfinite="raise")
        optimizer.backward(net.losses(batch()))
        before = grads(net)
        with pytest.raises(RuntimeError, match=f"gradient of loss '?{task}'? is not finite"):
            optimizer.backward(broken_losses(net, task))
        assert_equal(grads(net), before)

    def test_by_number_without_names(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum", nonfinite="raise")
        with pytest.raises(RuntimeError, match="gradient of loss 1 is not finite"):
            optimizer.backward(list(broken_losses(net, "b").values()))

    def test_finite_gradients_are_merged(self) -> None:
        net, plain = Net(), Net()
        train(net, wrap(net, "mean", nonfinite="raise"), range(3))
        train(plain, wrap(plain, "mean"), range(3))
        assert_equal(net.parameters(), plain.parameters())


class TestPropagate:
    def test_the_merged_gradient_is_not_finite_and_the_step_is_taken(self) -> None:
        net = Net()
        optimizer = wrap(net, "sum", nonfinite="propagate")
        optimizer.backward(broken_losses(net, "b"))
        assert net.trunk[0].weight.grad.isnan().all()
        assert net.heads["a"].weight.grad.isfinite().all()
        optimizer.step()
        assert net.trunk[0].weight.isnan().all()

    @pytest.mark.parametrize("name", [n for n in every_method() if needs_gradients(n)])
    def test_no_method_hides_it(self, name: str) -> None:
        net = Net()
        optimizer = wrap(net, method(name), nonfinite="propagate")
        optimizer.backward(broken_losses(net, *NAMES))
        assert not net.trunk[0].weight.grad.isfinite().all()


class TestCounters:
    @pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step", "propagate"])
    def test_count_each_task(self, nonfinite: Any) -> None:
        net = Net()
        optimizer = wrap(net, "mean", nonfinite=nonfinite)
        for broken in (["a"], [], ["a", "c"], list(NAMES)):
            optimizer.zero_grad()
            optimizer.backward(broken_losses(net, *broken))
        assert optimizer.report.times_skipped.tolist() == [3, 1, 2]
        assert optimizer.report.skipped.all()


class TestOneBackward:
    """Methods that need only losses look at the losses, and at the gradient of the sum."""

    def make(self, **options: Any) -> tuple[Net, MultiTaskOptimizer]:
        net = Net()
        return net, wrap(net, mtl_ops.methods.get("equal"), **options)

    def test_broken_loss_is_left_out(self) -> None:
        net, optimizer = self.make()
        plain = Net()
        optimizer.backward(broken_losses(net, "b", by=torch.inf))
        losses = plain.losses(batch())
        (losses["a"] + losses["c"]).backward()
        for param, like in zip(net.parameters(), plain.parameters(), strict=True):
            if like.grad is not None:
                torch.testing.assert_close(param.grad, like.grad)
            else:
                assert param.grad is None or not param.grad.any()
        assert optimizer.report.weights[0, 1] == 0

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda losses: {name: loss * torch.nan for name, loss in losses.items()},
            lambda losses: {**losses, "b": Spoilt.apply(losses["b"])},
        ],
        ids=["losses", "gradient"],
    )
    def test_skip_step(self, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        net, optimizer = self.make(nonfinite="skip_step")
        before = [param.clone() for param in net.parameters()]
        optimizer.backward(spoil(net.losses(batch())))
        optimizer.step()
        assert_equal(net.parameters(), before)

    def test_raise(self) -> None:
        net, optimizer = self.make(nonfinite="raise")
        losses = net.losses(batch())
        with pytest.raises(RuntimeError, match=r"gradient of loss .* is not finite"):
            optimizer.backward({**losses, "b": Spoilt.apply(losses["b"])})
        assert all(param.grad is None for param in net.parameters())

    def test_propagate(self) -> None:
        net, optimizer = self.make(nonfinite="propagate")
        losses = net.losses(batch())
        optimizer.backward({**losses, "b": Spoilt.apply(losses["b"])})
        optimizer.step()
        assert not net.trunk[0].weight.isfinite().all()

    def test_max_norm(self) -> None:
        net, plain = Net(), Net()
        optimizer = wrap(net, mtl_ops.methods.get("equal"), max_norm=0.1)
        optimizer.backward(net.losses(batch()))
        sum(plain.losses(batch()).values()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        assert_same(grads(net), grads(plain), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("nonfinite", ["skip_task", "skip_step"])
@pytest.mark.parametrize("name", ["mgda", "db_mtl", "gradnorm"])
def test_a_method_without_a_finite_answer_loses_the_step(name: str, nonfinite: Any) -> None:
    """All gradients are finite, and the method cannot weigh them because of a loss."""
    net = Net()
    chosen = mtl_ops.methods.MGDA(normalise="loss") if name == "mgda" else method(name)
    optimizer = wrap(net, chosen, nonfinite=nonfinite)
    before = [param.detach().clone() for param in net.parameters()]
    losses = net.losses(batch(like=net))
    optimizer.zero_grad()
    optimizer.backward({**losses, "b": losses["b"] - 100.0})
    optimizer.step()
    assert_equal([param.detach() for param in net.parameters()], before)
    optimizer.zero_grad()
    optimizer.backward(net.losses(batch(1, like=net)))
    optimizer.step()
    assert all(param.isfinite().all() for param in net.parameters())
    assert name == "gradnorm" or not torch.equal(next(net.parameters()).detach(), before[0])

"""What users do around an optimizer, written as they write it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import NAMES, Drawn, Fixed, Net, assert_equal, assert_same, batch, grads, train, wrap
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer


class LightningOptimizer:
    """As Lightning and Fabric wrap: a copy of the attributes, and a class made on the spot."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        skipped = ("step", "__del__")
        self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k not in skipped}
        name = "Lightning" + type(optimizer).__name__
        self.__class__ = type(name, (type(self), type(optimizer)), {})  # type: ignore[assignment]
        self._optimizer = optimizer

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None, **options: Any) -> Any:
        return self._optimizer.step(closure, **options)


class TestLightning:
    def test_manual_optimization(self) -> None:
        net, plain = Net(), Net()
        real = wrap(
            net, "mean", torch.optim.AdamW, task_weights=lambda step: [1.0, 1.0, step + 1.0]
        )
        seen: Any = LightningOptimizer(real)
        other = wrap(
            plain, "mean", torch.optim.AdamW, task_weights=lambda step: [1.0, 1.0, step + 1.0]
        )
        for step in range(4):
            seen.zero_grad()
            seen.backward(net.losses(batch(step)))
            seen.step()
        train(plain, other, range(4))
        assert_equal(net.parameters(), plain.parameters())
        # What is saved is the real optimizer; it knows what its double has done.
        state = real.state_dict()["tasks"]
        assert state["steps"] == 4
        assert state["names"] == list(NAMES)
        assert real.report is seen.report

    def test_lost_gradients_are_seen_by_the_step(self) -> None:
        net = Net()
        real = wrap(net, "mean")
        seen: Any = LightningOptimizer(real)
        before = [param.clone() for param in net.parameters()]
        seen.backward({name: loss * torch.nan for name, loss in net.losses(batch()).items()})
        seen.step()
        assert_equal(net.parameters(), before)

    def test_automatic_optimization_steps_with_a_closure(self) -> None:
        net, plain = Net(), Net()
        real = wrap(net, "mean")
        seen: Any = LightningOptimizer(real)
        scheduler = torch.optim.lr_scheduler.StepLR(real, 1, gamma=0.5)

        def closure() -> Tensor:
            seen.zero_grad()
            losses = net.losses(batch())
            seen.backward(losses)
            return sum(losses.values()).detach()

        for _ in range(2):
            seen.step(closure)
            scheduler.step()
        other = wrap(plain, "mean")
        for lr in (0.05, 0.025):
            other.param_groups[0]["lr"] = lr
            train(plain, other, [0])
        assert_equal(net.parameters(), plain.parameters())


def test_module_zero_grad_instead_of_the_optimizers() -> None:
    net, plain = Net(), Net()
    optimizer, other = wrap(net, "mean"), wrap(plain, "mean")
    for step in range(3):
        net.zero_grad()
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
    train(plain, other, range(3))
    assert_equal(net.parameters(), plain.parameters())


def test_zero_grad_after_the_step() -> None:
    net, plain = Net(), Net()
    optimizer, other = wrap(net, "mean"), wrap(plain, "mean")
    for step in range(3):
        optimizer.backward(net.losses(batch(step)))
        optimizer.step()
        optimizer.zero_grad()
    train(plain, other, range(3))
    assert_equal(net.parameters(), plain.parameters())


def test_losses_logged_after_backward() -> None:
    net = Net()
    optimizer = wrap(net)
    losses = net.losses(batch())
    values = {name: loss.item() for name, loss in losses.items()}
    optimizer.backward(losses)
    assert {name: loss.item() for name, loss in losses.items()} == values
    assert optimizer.report.losses.tolist() == list(values.values())


def test_weights_changed_in_place_between_forward_and_backward() -> None:
    net = Net()
    optimizer = wrap(net)
    losses = net.losses(batch())
    optimizer.backward(net.losses(batch(1)))
    before = grads(net)
    with torch.no_grad():
        net.trunk[2].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        optimizer.backward(losses)
    assert_equal(grads(net), before)


def test_weights_changed_in_place_between_steps() -> None:
    # As weight clipping and moving averages do.
    net, plain = Net(), Net()
    optimizer, other = wrap(net, "sum"), wrap(plain, "sum")
    for step in range(3):
        train(net, optimizer, [step])
        train(plain, other, [step])
        for model in (net, plain):
            with torch.no_grad():
                for param in model.parameters():
                    param.clamp_(-0.1, 0.1)
    assert_equal(net.parameters(), plain.parameters())


def test_alternating_generator_and_discriminator() -> None:
    torch.manual_seed(0)
    generator, judge = nn.Linear(3, 4), nn.Linear(4, 1)
    for_generator = wrap(generator, "mean")
    for_judge = torch.optim.SGD(judge.parameters(), lr=0.1)
    for _ in range(3):
        fake = generator(torch.ones(2, 3))
        for_judge.zero_grad()
        judge(fake.detach()).mean().backward()
        for_judge.step()
        kept = [param.grad.clone() for param in judge.parameters()]
        for_generator.zero_grad()
        for_generator.backward([-judge(fake).mean(), (fake - 1).square().mean()])
        for_generator.step()
        assert_equal([param.grad for param in judge.parameters()], kept)


def test_a_loss_that_is_constant_in_some_batches() -> None:
    # "No positive example in this batch": a zero that hangs on nothing.
    net = Net()
    optimizer = wrap(net, tasks=NAMES)
    with pytest.raises(ValueError, match=r"loss 'b'.*does not") as error:
        optimizer.backward({**net.losses(batch()), "b": torch.zeros(())})
    assert "require a gradient" in str(error.value)


def test_a_loss_multiplied_by_zero_is_a_zero_gradient() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    losses = net.losses(batch())
    optimizer.backward({**losses, "b": 0.0 * losses["b"]})
    assert optimizer.report.weights.tolist() == [[1 / 3] * 3]
    assert optimizer.report.norms[1] == 0


def test_python_numbers_as_losses() -> None:
    net = Net()
    with pytest.raises(TypeError, match=r"should hold tensors. Found loss 'b' of type float"):
        wrap(net).backward({**net.losses(batch()), "b": 0.0})


def test_a_single_loss_without_a_container() -> None:
    net = Net()
    with pytest.raises(ValueError, match=r"a dict, a sequence or a tensor of shape \(T,\)"):
        wrap(net).backward(sum(net.losses(batch()).values()))


def test_names_that_are_not_strings() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    optimizer.backward(dict(enumerate(net.losses(batch()).values())))
    assert optimizer.report.names == (0, 1, 2)


def test_backward_before_the_parameters_have_moved_to_another_dtype() -> None:
    net = Net(torch.float32)
    optimizer = wrap(net, "mean")
    train(net, optimizer, range(1))
    optimizer.zero_grad()
    net.double()
    train(net, optimizer, range(2))
    assert net.trunk[0].weight.grad.dtype == torch.float64


def test_best_model_is_kept_by_deepcopy_during_training() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    train(net, optimizer, range(2))
    best = copy.deepcopy(net)
    kept = [param.clone() for param in best.parameters()]
    train(net, optimizer, range(2, 4))
    assert_equal(best.parameters(), kept)


def test_exponential_moving_average() -> None:
    net = Net()
    optimizer = wrap(net, "mean")
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for step in range(3):
        train(net, optimizer, [step])
        average.update_parameters(net)
    assert all(param.isfinite().all() for param in average.parameters())


def test_one_method_object_in_two_optimizers() -> None:
    method = Fixed()
    first, second = Net(), Net()
    train(first, wrap(first, method), range(2))
    train(second, wrap(second, method), range(2))
    assert_equal(first.parameters(), second.parameters())


def test_generator_makes_runs_reproducible() -> None:
    results = []
    for _ in range(2):
        net = Net()
        generator = torch.Generator().manual_seed(5)
        train(net, wrap(net, Drawn(), generator=generator), range(3))
        results.append(list(net.parameters()))
    assert_equal(*results)


def test_global_seed_makes_runs_reproducible_without_one() -> None:
    results = []
    for _ in range(2):
        net = Net()
        torch.manual_seed(5)
        train(net, wrap(net, Drawn()), range(3))
        results.append(list(net.parameters()))
    assert_equal(*results)


def test_training_on_a_subset_of_tasks_and_then_on_all() -> None:
    net = Net()
    optimizer = wrap(net, "mean", tasks=NAMES)
    for step in range(6):
        optimizer.zero_grad()
        losses = net.losses(batch(step))
        optimizer.backward({"a": losses["a"]} if step < 3 else losses)
        optimizer.step()
    assert optimizer.report.weights.tolist() == [[1 / 3] * 3]


def test_steps_without_a_backward_are_not_counted() -> None:
    # As `torch.distributed.checkpoint` does to make an optimizer's state.
    net = Net()
    optimizer = wrap(net, inner_options={"momentum": 0.9})
    optimizer.step()
    for param in net.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    optimizer.zero_grad()
    assert optimizer.state_dict()["tasks"]["steps"] == 0


def test_failed_backward_does_not_name_the_tasks() -> None:
    net = Net()
    optimizer = wrap(net)
    with pytest.raises(ValueError, match="scalars"):
        optimizer.backward({"x": net(batch())["a"]})
    optimizer.backward(net.losses(batch()))
    assert optimizer.report.names == NAMES


def test_gradients_of_all_tasks_vanish_when_converged() -> None:
    weight = torch.zeros(3, requires_grad=True)
    optimizer = wrap([weight], "mean", max_norm=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.backward([weight.square().sum(), 2 * weight.square().sum()])
        optimizer.step()
    assert not weight.any()


def test_saved_optimizer_is_a_plain_pickle() -> None:
    net = Net()
    optimizer = wrap(net)
    train(net, optimizer, range(1))
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups", "tasks"}
    assert_same(
        [state["tasks"]["times_skipped"]], [torch.zeros(3, dtype=torch.int64)], rtol=0, atol=0
    )


class TestStepWithoutBackward:
    def plain(self, net: Net, optimizer: MultiTaskOptimizer, steps: int) -> None:
        for step in range(steps):
            optimizer.zero_grad()
            sum(net.losses(batch(step)).values()).backward()
            optimizer.step()

    def test_says_once_that_nothing_is_merged(self) -> None:
        net = Net()
        optimizer = wrap(net, "upgrad")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.plain(net, optimizer, 2)
        with pytest.warns(UserWarning, match=r"`backward` of this optimizer never") as found:
            self.plain(net, optimizer, 1)
        assert found[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.plain(net, optimizer, 5)

    @pytest.mark.parametrize("how", ["backward", "accumulate", "no gradients", "frozen"])
    def test_does_not_say_so_of(self, how: str) -> None:
        net = Net()
        optimizer = wrap(net, "upgrad")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if how == "backward":
                train(net, optimizer, range(1))
            elif how == "accumulate":
                optimizer.accumulate(net.losses(batch()))
            for step in range(5):
                optimizer.zero_grad()
                total = sum(net.losses(batch(step)).values())
                if how != "no gradients":
                    total.backward()
                if how == "frozen":
                    optimizer.zero_grad()
                optimizer.step()

    def test_says_so_of_a_closure(self) -> None:
        net = Net()
        optimizer = wrap(net, "upgrad")

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.stack([*net.losses(batch()).values()]).sum()
            total.backward()
            return total

        for _ in range(2):
            optimizer.step(closure)
        with pytest.warns(UserWarning, match=r"`backward` of this optimizer never") as found:
            optimizer.step(closure)
        assert found[0].filename == __file__

    def test_does_not_say_so_of_turns(self) -> None:
        net = Net()
        optimizer = wrap(net, "upgrad", groups=[["a"], ["b", "c"]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(5):
                optimizer.step(lambda step=step: net.losses(batch(step)))

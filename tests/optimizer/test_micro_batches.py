"""Gradient accumulation and mixed precision: ``accumulate`` and ``grad_scaler``."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtl_ops.merging.merge
import mtl_ops.step.streamed
from mtl_ops import MultiTaskOptimizer
from mtl_ops.merging.call import Call


class Net(nn.Module):
    """A trunk and two heads; the second is named in only some batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.trunk = nn.Linear(4, 5)
        self.heads = nn.ModuleDict({"a": nn.Linear(5, 1), "b": nn.Linear(5, 1)})

    def losses(self, data: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
        features = self.trunk(data).tanh()
        return {k: factor * (head(features) - 1).square().mean() for k, head in self.heads.items()}


DATA = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def make(**options: Any) -> tuple[Net, MultiTaskOptimizer]:
    net = Net()
    return net, MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "upgrad", **options)


class TestAccumulation:
    @pytest.mark.parametrize("parts", [2, 3, 4])
    @pytest.mark.parametrize("options", [{}, {"max_norm": 0.1}, {"max_task_norm": 0.1}], ids=str)
    def test_equals_the_large_batch(self, parts: int, options: dict[str, Any]) -> None:
        large, optimizer = make(**options)
        optimizer.backward(large.losses(DATA))
        expected = optimizer.report
        small, optimizer = make(**options)
        pieces = DATA.chunk(parts)
        for piece in pieces[:-1]:
            optimizer.accumulate(small.losses(piece, 1 / parts))
            assert all(param.grad is None for param in small.parameters())
        optimizer.backward(small.losses(pieces[-1], 1 / parts))
        for one, two in zip(large.parameters(), small.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)
        torch.testing.assert_close(optimizer.report.weights, expected.weights)
        torch.testing.assert_close(optimizer.report.losses, expected.losses)

    def test_next_step_starts_afresh(self) -> None:
        net, optimizer = make()
        optimizer.accumulate(net.losses(DATA))
        optimizer.backward(net.losses(DATA))
        once, second = make()
        second.backward(once.losses(DATA))
        optimizer.zero_grad()
        optimizer.backward(net.losses(DATA))
        torch.testing.assert_close(net.trunk.weight.grad, once.trunk.weight.grad)

    def test_zero_grad_forgets(self) -> None:
        net, optimizer = make()
        optimizer.accumulate(net.losses(DATA * 100))
        optimizer.zero_grad()
        optimizer.backward(net.losses(DATA))
        once, second = make()
        second.backward(once.losses(DATA))
        torch.testing.assert_close(net.trunk.weight.grad, once.trunk.weight.grad)

    def test_a_task_may_be_absent_from_some_micro_batches(self) -> None:
        net, optimizer = make(tasks=["a", "b"])
        for absent in ("b", "a", "b"):
            optimizer.accumulate({**net.losses(DATA), absent: None})
        optimizer.backward({**net.losses(DATA), "a": None})
        once, second = make()
        second.backward({name: 2 * loss for name, loss in once.losses(DATA).items()})
        torch.testing.assert_close(net.trunk.weight.grad, once.trunk.weight.grad)
        torch.testing.assert_close(net.heads["b"].weight.grad, once.heads["b"].weight.grad)

    def test_gradients_that_share_memory_are_not_written_to(self) -> None:
        # d(p + q) is one tensor for both, and it is autograd's own.
        p, q = (torch.zeros(3, requires_grad=True) for _ in range(2))
        optimizer = MultiTaskOptimizer(torch.optim.SGD([p, q], lr=0.1), "sum")
        for _ in range(3):
            optimizer.accumulate([(p + q).sum(), 2 * (p + q).sum()])
        optimizer.backward([(p + q).sum(), 2 * (p + q).sum()])
        assert torch.equal(p.grad, torch.full((3,), 12.0))
        assert torch.equal(q.grad, torch.full((3,), 12.0))


def scaled(scale: float = 1024.0) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


class TestGradScaler:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"max_norm": 0.05},
            {"max_task_norm": 0.05},
            {"gram_on": "features"},
            {"weights_every": 2, "max_norm": 0.05},
        ],
        ids=str,
    )
    def test_equals_training_without(self, options: dict[str, Any]) -> None:
        plain, optimizer = make(**options)
        scaler = scaled()
        mixed, wrapped = make(grad_scaler=scaler, **options)
        for _ in range(4):
            for net, opt in ((plain, optimizer), (mixed, wrapped)):
                opt.zero_grad()
                if options.get("gram_on") == "features":
                    features = net.trunk(DATA).tanh()
                    losses = {k: (h(features) - 1).square().mean() for k, h in net.heads.items()}
                    opt.backward(losses, features=features)
                else:
                    opt.backward(net.losses(DATA))
            optimizer.step()
            scaler.step(wrapped)
            scaler.update()
        for one, two in zip(plain.parameters(), mixed.parameters(), strict=True):
            torch.testing.assert_close(one, two)
        torch.testing.assert_close(wrapped.report.norms, optimizer.report.norms)
        assert scaler.get_scale() == 1024.0

    def test_loss_methods_are_scaled_too(self) -> None:
        scaler = scaled()
        for options in ({}, {"max_norm": 0.05}):
            plain, mixed = Net(), Net()
            one = MultiTaskOptimizer(torch.optim.SGD(plain.parameters(), 0.1), "equal", **options)
            two = MultiTaskOptimizer(
                torch.optim.SGD(mixed.parameters(), 0.1), "equal", grad_scaler=scaler, **options
            )
            one.backward(plain.losses(DATA))
            two.backward(mixed.losses(DATA))
            one.step()
            scaler.step(two)
            scaler.update()
            torch.testing.assert_close(plain.trunk.weight, mixed.trunk.weight)

    def test_inf_in_one_task_leaves_it_out_and_lowers_the_scale(self) -> None:
        scaler = scaled()
        net, optimizer = make(grad_scaler=scaler)
        before = copy.deepcopy(net)
        losses = net.losses(DATA)
        losses["b"] = losses["b"] * torch.inf
        optimizer.backward(losses)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 512.0
        assert optimizer.report.skipped.tolist() == [False, True]
        assert not torch.equal(net.trunk.weight, before.trunk.weight)
        assert all(param.isfinite().all() for param in net.parameters())

    def test_inf_in_all_tasks_skips_the_step_and_lowers_the_scale(self) -> None:
        scaler = scaled()
        net, optimizer = make(grad_scaler=scaler)
        before = copy.deepcopy(net)
        optimizer.backward({name: loss * torch.inf for name, loss in net.losses(DATA).items()})
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 512.0
        for one, two in zip(net.parameters(), before.parameters(), strict=True):
            assert torch.equal(one, two)

    def test_disabled_scaler_changes_nothing(self) -> None:
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        net, optimizer = make(grad_scaler=scaler)
        optimizer.backward(net.losses(DATA))
        scaler.step(optimizer)
        scaler.update()
        plain, other = make()
        other.backward(plain.losses(DATA))
        other.step()
        assert torch.equal(net.trunk.weight, plain.trunk.weight)

    @pytest.mark.parametrize("options", [{}, {"memory": "stream"}, {"max_norm": 0.5}], ids=str)
    def test_elements_are_clipped_as_they_would_be_unscaled(self, options: dict[str, Any]) -> None:
        scaler = scaled()
        net, optimizer = make(grad_scaler=scaler, clip_value=0.01, **options)
        optimizer.backward(net.losses(DATA))
        scaler.unscale_(optimizer)
        plain, other = make(clip_value=0.01, **options)
        other.backward(plain.losses(DATA))
        assert other.report.gram is not None
        torch.testing.assert_close(optimizer.report.gram, other.report.gram)
        for one, two in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)
        loose, free = make()
        free.backward(loose.losses(DATA))
        assert free.report.gram is not None
        assert not torch.allclose(free.report.gram, other.report.gram, rtol=0.1)

    def test_bad_arguments(self) -> None:
        with pytest.raises(TypeError, match="`grad_scaler` should be"):
            make(grad_scaler=1.0)


def test_autocast_trains() -> None:
    net, optimizer = make(grad_scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
    first = last = 0.0
    for step in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = net.losses(DATA)
        optimizer.backward(losses)
        optimizer.settings.grad_scaler.step(optimizer)
        optimizer.settings.grad_scaler.update()
        last = sum(loss.item() for loss in losses.values())
        first = last if step == 0 else first
    assert last < 0.5 * first


def test_a_threshold_that_only_the_device_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: elements are clipped before the kernels, without a number on the host."""

    def on_device(call: Call) -> tuple[Call, Tensor | None]:
        clip_value, scale = call.rules.clip_value, call.scale
        if clip_value is None or scale is None:
            return call, None
        return replace(call, rules=replace(call.rules, clip_value=None)), clip_value * scale

    found = []
    for patched in (False, True):
        if patched:
            for room in (mtl_ops.merging.merge, mtl_ops.step.streamed):
                monkeypatch.setattr(room, "with_scaled_threshold", on_device)
        for options in ({}, {"memory": "stream"}):
            net, optimizer = make(grad_scaler=scaled(), clip_value=0.01, **options)
            optimizer.backward(net.losses(DATA))
            found.append([param.grad for param in net.parameters()])
    for others in found[1:]:
        torch.testing.assert_close(found[0], others)

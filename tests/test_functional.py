"""``mtl_ops.merge`` and ``mtl_ops.backward``: merging without an optimizer."""

from __future__ import annotations

from typing import Any

import naive
import pytest
import torch
from multitask import (
    Fixed,
    Net,
    assert_equal,
    assert_same,
    batch,
    every_method,
    grads,
    method,
    through,
    wrap,
)
from torch import Tensor

import mtl_ops
from mtl_ops.methods import TrackingMethod


def matrix(tasks: int = 3, size: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(tasks)
    return torch.randn(tasks, size, generator=generator, dtype=torch.float64).to(dtype)


class TestMerge:
    @pytest.mark.parametrize(
        ("name", "rule"),
        [("sum", naive.summed), ("mean", naive.mean), ("mgda", naive.mgda)],
    )
    def test_equals_the_naive_rule(self, name: str, rule: naive.Rule) -> None:
        rows = matrix()
        torch.testing.assert_close(
            mtl_ops.merge(rows, name), rule(rows, range(3)), rtol=1e-6, atol=1e-9
        )

    def test_dtype_and_device_are_those_of_the_gradients(
        self, dtype: torch.dtype, device: torch.device
    ) -> None:
        rows = matrix(dtype=dtype).to(device)
        merged = mtl_ops.merge(rows, "mean")
        assert merged.shape == (40,)
        assert merged.dtype == dtype
        assert merged.device.type == device.type
        torch.testing.assert_close(merged, rows.double().mean(dim=0).to(dtype))

    @pytest.mark.parametrize("name", every_method())
    def test_every_method_and_its_weights(self, name: str) -> None:
        rows = matrix()
        chosen = method(name)
        losses = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
        if chosen.needs == "coordinates":
            assert mtl_ops.merge(rows, chosen, losses=losses).shape == (40,)
            with pytest.raises(TypeError, match="Parameter `return_weights` should be False"):
                mtl_ops.merge(rows, chosen, losses=losses, return_weights=True)
            return
        merged, weights = mtl_ops.merge(rows, chosen, losses=losses, return_weights=True)
        assert weights.shape == (3,)
        assert weights.dtype == torch.float64
        if isinstance(chosen, TrackingMethod):  # weights of what it remembers
            return
        torch.testing.assert_close(merged, weights @ rows)

    def test_weights_include_the_clip(self) -> None:
        rows = matrix()
        merged, weights = mtl_ops.merge(rows, "sum", max_norm=0.5, return_weights=True)
        assert merged.norm().item() == pytest.approx(0.5)
        torch.testing.assert_close(merged, weights @ rows)

    def test_options(self) -> None:
        rows = matrix()
        expected = (rows.clamp(-0.7, 0.7) * torch.tensor([[2.0], [0.0], [1.0]])).sum(0)
        torch.testing.assert_close(
            mtl_ops.merge(rows, "sum", task_weights=[2.0, 0.0, 1.0], clip_value=0.7), expected
        )
        unit = rows / rows.norm(dim=1, keepdim=True)
        torch.testing.assert_close(mtl_ops.merge(rows, "mean", max_task_norm=1.0), unit.mean(0))
        torch.testing.assert_close(
            mtl_ops.merge(rows, "sum", task_weights=lambda step: [step, 1.0, 1.0]), rows[1:].sum(0)
        )

    def test_input_is_not_changed_and_the_result_has_no_graph(self) -> None:
        rows = matrix().requires_grad_()
        before = rows.detach().clone()
        merged = mtl_ops.merge(rows, "mean", clip_value=0.1, max_norm=0.1)
        assert not merged.requires_grad
        assert_equal([rows], [before])

    def test_transposed_and_strided_matrices(self) -> None:
        rows = matrix()
        expected = rows.mean(0)
        torch.testing.assert_close(mtl_ops.merge(rows.t().contiguous().t(), "mean"), expected)
        wide = torch.zeros(3, 80, dtype=torch.float64)
        wide[:, ::2] = rows
        torch.testing.assert_close(mtl_ops.merge(wide[:, ::2], "mean"), expected)

    @pytest.mark.parametrize("shape", [(1, 5), (3, 0), (64, 2), (70, 2)], ids=str)
    def test_shapes(self, shape: tuple[int, int]) -> None:
        rows = torch.ones(shape)
        torch.testing.assert_close(mtl_ops.merge(rows, "mean"), torch.ones(shape[1]))

    def test_writes_to_a_tensor_that_is_there(self) -> None:
        rows, out = matrix(), torch.full((40,), 7.0, dtype=torch.float64)
        found = mtl_ops.merge(rows, "upgrad", out=out)
        assert found is out
        assert torch.equal(out, mtl_ops.merge(rows, "upgrad"))
        into, weights = mtl_ops.merge(rows, "mgda", out=out, return_weights=True)
        assert into is out
        torch.testing.assert_close(out, weights @ rows)

    @pytest.mark.parametrize(
        ("out", "kind", "found"),
        [
            ([0.0] * 40, TypeError, "Found list"),
            (torch.zeros(39, dtype=torch.float64), ValueError, r"Found shape \(39,\)"),
            (torch.zeros(40), ValueError, "torch.float32"),
            (torch.zeros(40, dtype=torch.float64, device="meta"), ValueError, "on meta"),
            (torch.zeros(40, dtype=torch.float64).requires_grad_(), ValueError, "with a gradient"),
        ],
        ids=["list", "shape", "dtype", "device", "grad"],
    )
    def test_tensors_that_cannot_be_written_to(
        self, out: Any, kind: type[Exception], found: str
    ) -> None:
        with pytest.raises(kind, match=f"Parameter `out` should be a tensor.*{found}"):
            mtl_ops.merge(matrix(), "sum", out=out)

    def test_a_row_is_not_overwritten_before_it_is_read(self) -> None:
        rows = matrix()
        with pytest.raises((RuntimeError, ValueError), match="share no memory"):
            mtl_ops.merge(rows, "sum", out=rows.flatten()[20:60])

    def test_nonfinite(self) -> None:
        rows = matrix()
        rows[1, 3] = torch.inf
        assert not mtl_ops.merge(rows, "sum").isfinite().all()
        torch.testing.assert_close(
            mtl_ops.merge(rows, "mean", nonfinite="skip_task"), rows[[0, 2]].mean(0)
        )
        with pytest.raises(RuntimeError, match="gradient of loss 1 is not finite"):
            mtl_ops.merge(rows, "mean", nonfinite="raise")

    def test_what_is_given_reaches_the_method(self) -> None:
        rows = matrix()
        orders = [[1, 2, 0], [2, 0, 1], [0, 1, 2]]
        merged = mtl_ops.merge(rows, "pcgrad", orders=torch.tensor(orders))
        torch.testing.assert_close(merged, naive.pcgrad(orders)(rows, range(3)))
        with pytest.raises(TypeError, match="order"):
            mtl_ops.merge(rows, "pcgrad", order=torch.tensor(orders))


class TestBackward:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"max_norm": 0.1, "clip_value": 0.05, "max_task_norm": 0.2},
            {"task_weights": {"a": 2.0}},
            {"task_weights": [1.0, 0.5, 0.25]},
        ],
        ids=str,
    )
    def test_equals_the_optimizers(self, options: dict[str, Any], device: torch.device) -> None:
        net, other = Net(device=device), Net(device=device)
        report = mtl_ops.backward(net.losses(batch(like=net)), net.parameters(), Fixed(), **options)
        optimizer = wrap(other, Fixed(), **options)
        optimizer.backward(other.losses(batch(like=other)))
        assert_equal(grads(net), grads(other))
        assert_equal(
            [report.weights, report.gram], [optimizer.report.weights, optimizer.report.gram]
        )

    def test_shared(self) -> None:
        net, other = Net(), Net()
        mtl_ops.backward(
            net.losses(batch()), net.parameters(), Fixed(), shared=net.neck.parameters()
        )
        wrap(other, Fixed(), shared=other.neck.parameters()).backward(other.losses(batch()))
        assert_equal(grads(net), grads(other))

    def test_trains_with_a_plain_optimizer(self) -> None:
        net, other = Net(), Net()
        plain = torch.optim.Adam(net.parameters(), lr=0.01)
        chosen = method("mean")
        wrapped = wrap(other, "mean", torch.optim.Adam, lr=0.01)
        for step in range(4):
            plain.zero_grad()
            mtl_ops.backward(net.losses(batch(step)), net.parameters(), chosen)
            plain.step()
            wrapped.zero_grad()
            wrapped.backward(other.losses(batch(step)))
            wrapped.step()
        assert_equal(net.parameters(), other.parameters())

    def test_adds_and_keeps_the_graph(self) -> None:
        net, once = Net(), Net()
        losses = net.losses(batch())
        mtl_ops.backward(losses, net.parameters(), "mean", retain_graph=True)
        mtl_ops.backward(losses, net.parameters(), "mean")
        mtl_ops.backward(once.losses(batch()), once.parameters(), "mean")
        assert_same(grads(net), [2 * gradient for gradient in grads(once)])

    def test_parameters_that_require_no_gradient_are_left_alone(self) -> None:
        net = Net()
        net.trunk[0].requires_grad_(False)
        mtl_ops.backward(net.losses(batch()), net.parameters(), "mean")
        assert net.trunk[0].weight.grad is None
        assert net.trunk[2].weight.grad is not None

    def test_only_some_parameters(self) -> None:
        net = Net()
        mtl_ops.backward(net.losses(batch()), net.trunk.parameters(), "mean")
        assert net.trunk[0].weight.grad is not None
        assert net.neck.weight.grad is None

    def test_skipped_task(self) -> None:
        net, other = Net(), Net()
        losses = net.losses(batch())
        report = mtl_ops.backward(
            {**losses, "a": losses["a"] * torch.nan}, net.parameters(), "mean"
        )
        assert report.skipped.tolist() == [True, False, False]
        mtl_ops.backward({**other.losses(batch()), "a": None}, other.parameters(), "mean")
        assert_same(grads(net.trunk), grads(other.trunk))

    def test_no_name_is_remembered(self) -> None:
        net = Net()
        for names in ("xyz", "abc"):
            losses = dict(zip(names, net.losses(batch()).values(), strict=True))
            assert mtl_ops.backward(losses, net.parameters(), "sum").names == tuple(names)


def weighed(net: Net) -> list[Tensor]:
    return list(net.trunk[2].parameters())


#: Options that the optimizer has, and the function takes as well.
OPTIONS: dict[str, dict[str, Any]] = {
    "granularity": {"granularity": "tensor"},
    "weights_every": {"weights_every": 2},
    "features": {"gram_on": "features"},
    "a layer": {"gram_on": weighed},
    "stored": {"grad_dtype": torch.float32},
    "streamed": {"memory": "stream"},
    "batched": {"batched": True},
    "factored": {"gradients": "factored"},
    "names": {"tasks": ["a", "b", "c"]},
    "by step": {"task_weights": lambda step: [1.0, 1.0 + step, 2.0]},
}


class TestBackwardDoesWhatTheOptimizerDoes:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_over_several_steps(self, name: str) -> None:
        net, other = Net(), Net()
        inner = torch.optim.SGD(other.parameters(), lr=0.05)
        options = {
            key: value(net) if value is weighed else value for key, value in OPTIONS[name].items()
        }
        same = {
            key: value(other) if value is weighed else value for key, value in OPTIONS[name].items()
        }
        optimizer, state = wrap(net, "upgrad", **options), {}
        features_asked = options.get("gram_on") == "features"
        for step in range(4):
            optimizer.zero_grad()
            features, losses = through(net, batch(step))
            optimizer.backward(losses, features=features if features_asked else None)
            optimizer.step()
            inner.zero_grad()
            features, losses = through(other, batch(step))
            report = mtl_ops.backward(
                losses,
                other.parameters(),
                "upgrad",
                state=state,
                features=features if features_asked else None,
                **same,
            )
            inner.step()
            assert report.weights is not None
            assert torch.equal(report.weights, optimizer.report.weights)
        assert_equal(net.parameters(), other.parameters())

    def test_a_grad_scaler(self) -> None:
        net, other = Net(), Net()
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        mtl_ops.backward(net.losses(batch()), net.parameters(), "sum", grad_scaler=scaler)
        mtl_ops.backward(other.losses(batch()), other.parameters(), "sum")
        for one, two in zip(grads(net), grads(other), strict=True):
            torch.testing.assert_close(one, 4.0 * two)

    def test_what_is_remembered_needs_somewhere_to_be(self) -> None:
        net = Net()
        with pytest.raises(ValueError, match="Parameter `state` should be given with `weights_ev"):
            mtl_ops.backward(net.losses(batch()), net.parameters(), weights_every=2)
        with pytest.raises(TypeError, match=r"Parameter `state` should be a dict. Found list"):
            mtl_ops.backward(net.losses(batch()), net.parameters(), state=[])  # type: ignore[arg-type]
        assert grads(net) == [None] * len(grads(net))

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"method": "mgda"}, "method"),
            ({"max_norm": 2.0}, "max_norm"),
            ({"granularity": "tensor"}, "granularity"),
            ({"params": "trunk"}, "params"),
        ],
    )
    def test_a_state_is_of_one_way(self, change: dict[str, Any], name: str) -> None:
        net, state = Net(), {}
        asked = {"params": list(net.parameters()), "method": "upgrad", "max_norm": 1.0}
        mtl_ops.backward(net.losses(batch()), state=state, **asked)
        before = grads(net)
        if change.get("params"):
            change = {"params": list(net.trunk.parameters())}
        with pytest.raises(ValueError, match=f"should be passed with the same `{name}` every time"):
            mtl_ops.backward(net.losses(batch()), state=state, **{**asked, **change})
        assert_equal(grads(net), before)

    @pytest.mark.parametrize("name", ["groups", "order", "closing_joint"])
    def test_turns_are_the_optimizers(self, name: str) -> None:
        net = Net()
        with pytest.raises(TypeError, match=f"Parameter `{name}` should be given to `MultiTaskOp"):
            mtl_ops.backward(net.losses(batch()), net.parameters(), **{name: "random"})

    def test_options_that_do_not_go_together(self) -> None:
        net = Net()
        with pytest.raises(ValueError, match="`clip_value` should be None with `gram_on`"):
            mtl_ops.backward(
                net.losses(batch()), net.parameters(), clip_value=1.0, gram_on=weighed(net)
            )
        with pytest.raises(ValueError, match="`shared` should hold parameters of `params`"):
            mtl_ops.backward(
                net.losses(batch()), net.trunk.parameters(), shared=net.neck.parameters()
            )

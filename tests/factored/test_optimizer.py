"""The option ``gradients`` of the optimizer and of :func:`mtl_ops.backward`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from live_bytes import peak_bytes
from multitask import assert_same, grads
from torch import Tensor, nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.optim.facts import Situation, check_together
from mtl_ops.optim.settings import make_settings

WIDTH, TASKS = 96, 4
NAMES = tuple("abcd")


class Wide(nn.Module):
    """Layers that are wider than the batch has rows."""

    def __init__(self, width: int = WIDTH, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
            self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(TASKS))
        self.to(dtype)
        self.width = width

    def losses(self, step: int, part: float = 1.0) -> dict[str, Tensor]:
        """Losses by name on the batch of a step."""
        generator = torch.Generator().manual_seed(step)
        data = torch.randn(4, self.width, generator=generator).to(self.heads[0].weight)
        features = self.trunk(data)
        return {
            name: (head(features) - k + 1).square().mean() * part
            for k, (name, head) in enumerate(zip(NAMES, self.heads, strict=True))
        }


def trained(gradients: Any, **options: Any) -> tuple[Wide, MultiTaskOptimizer]:
    net = Wide()
    inner = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if options.pop("scaled", False):
        options["grad_scaler"] = torch.amp.GradScaler("cpu", init_scale=8.0)
    accumulating = options.pop("accumulating", False)
    optimizer = MultiTaskOptimizer(inner, "upgrad", gradients=gradients, **options)
    for step in range(4):
        if "groups" in options:
            optimizer.step(lambda step=step: net.losses(step))
            continue
        optimizer.zero_grad()
        if accumulating:
            optimizer.accumulate(net.losses(step, 0.5))
            optimizer.backward(net.losses(step + 9, 0.5))
        else:
            optimizer.backward(net.losses(step))
        scaler = options.get("grad_scaler")
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return net, optimizer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_norm": 0.1, "max_task_norm": 0.2},
        {"granularity": "tensor"},
        {"weights_every": 3},
        {"weights_every": 2, "accumulating": True},
        {"accumulating": True},
        {"scaled": True},
        {"groups": [["a", "b"], ["c", "d"]]},
        {"task_weights": {"a": 2.0, "c": 0.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize("gradients", ["factored", "auto"])
def test_trains_as_with_all_gradients(gradients: str, options: dict[str, Any]) -> None:
    net, optimizer = trained(gradients, **dict(options))
    other, _ = trained("dense", **dict(options))
    assert_same(net.parameters(), other.parameters())
    if "accumulating" not in options:
        assert "2 parameters in factors, batched" in repr(optimizer)


def test_the_plan_is_printed() -> None:
    net = Wide()
    optimizer = MultiTaskOptimizer(
        torch.optim.SGD(net.parameters(), lr=0.1), "mean", gradients="factored"
    )
    assert repr(optimizer).endswith("), Factoring('factored'))")
    optimizer.backward(net.losses(0))
    assert "Factoring('factored': 2 parameters in factors, batched, saves" in repr(optimizer)
    dense = MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), "mean")
    assert "Factoring" not in repr(dense)


def test_can_be_copied_pickled_and_saved() -> None:
    net, optimizer = trained("factored")
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert repr(other) == repr(optimizer)
    fresh = Wide()
    fresh.load_state_dict(net.state_dict())
    inner = torch.optim.SGD(fresh.parameters(), lr=0.01, momentum=0.9)
    resumed = MultiTaskOptimizer(inner, "upgrad", gradients="factored")
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, model in ((optimizer, net), (resumed, fresh)):
        one.zero_grad()
        one.backward(model.losses(7))
        one.step()
    assert_same(net.parameters(), fresh.parameters())


@pytest.mark.parametrize("weights_every", [1, 3])
def test_no_step_holds_the_gradients_of_all_tasks(weights_every: int) -> None:
    net = Wide(256, torch.float32)
    inner = torch.optim.SGD(net.parameters(), lr=0.01)
    optimizer = MultiTaskOptimizer(inner, "mean", gradients="factored", weights_every=weights_every)

    def step() -> None:
        optimizer.zero_grad()
        optimizer.backward(net.losses(optimizer._merger.progress.steps))
        optimizer.step()

    step()
    size = 4 * sum(param.numel() for param in net.parameters())
    for _ in range(3):
        assert peak_bytes(step) < 2 * size


@pytest.mark.parametrize("method", ["upgrad", "mgda"])
def test_backward_without_an_optimizer(method: str) -> None:
    net, other, third = Wide(), Wide(), Wide()
    mtl_ops.backward(net.losses(0), net.parameters(), method, gradients="factored")
    mtl_ops.backward(other.losses(0), other.parameters(), method)
    assert_same(grads(net), grads(other))
    mtl_ops.backward(third.losses(0), third.parameters(), "graddrop", gradients="auto")
    assert all(gradient is not None for gradient in grads(third))


def test_by_sample() -> None:
    found = []
    for gradients in ("by_sample", "dense"):
        net = Wide()
        inner = torch.optim.SGD(net.trunk.parameters(), lr=0.1)
        optimizer = MultiTaskOptimizer(inner, "upgrad", gradients=gradients)
        for step in range(3):
            data = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            optimizer.backward((net.trunk(data) - data).square().mean(1))
            optimizer.step()
        found.append(list(net.trunk.parameters()))
        assert optimizer.report.gram is not None
        assert optimizer.report.gram.shape == (1, 6, 6)
    assert_same(*found)


# ---- what is refused ------------------------------------------------------------------------------


def refused(**options: Any) -> str:
    method = options.pop("method", "upgrad")
    situation = options.pop("situation", Situation())
    with pytest.raises(ValueError, match="Parameter `") as caught:
        check_together(make_settings(method, [], **options), situation)
    return str(caught.value)


@pytest.mark.parametrize("gradients", ["factored", "by_sample"])
def test_what_needs_the_gradient_of_each_task(gradients: str) -> None:
    for method in ("graddrop", "trimmed_mean", "moco"):
        text = refused(method=method, gradients=gradients)
        assert text == (
            "Parameter `method` should be another with `gradients`, which forms no gradient of a single task. "
            f"Found `method = '{method}'` and `gradients = '{gradients}'`."
        )
    for option, value in (
        ("clip_value", 1.0),
        ("grad_dtype", torch.bfloat16),
        ("memory", "stream"),
        ("batched", True),
    ):
        text = refused(**{option: value, "gradients": gradients})
        assert f"Parameter `{option}` should be" in text
        assert "with `gradients`, which forms no gradient of a single task" in text
    assert "with `gram_on`" in refused(gram_on="features", gradients=gradients)
    several = Situation(several=True)
    assert "with several processes" in refused(gradients=gradients, situation=several)
    check_together(make_settings("upgrad", [], gradients="auto", clip_value=1.0), several)


def test_samples_are_others_in_every_step() -> None:
    assert "with `weights_every`" in refused(weights_every=2, gradients="by_sample")
    accumulating = Situation(accumulating=True)
    text = refused(gradients="by_sample", situation=accumulating)
    assert "to accumulate gradients, whose samples are others each time" in text


def test_words_that_are_not_known() -> None:
    assert refused(gradients="sparse") == (
        "Parameter `gradients` should be one of dense, factored, auto, by_sample. "
        "Found `gradients = 'sparse'`."
    )
    net = Wide()
    for options, found in (
        ({"gradients": "sparse"}, "one of dense, factored, auto, by_sample. Found"),
        ({"gradients": "factored", "method": "graddrop"}, "Found `method = 'graddrop'` and"),
        ({"gradients": "factored", "clip_value": 1.0}, "Found `clip_value = 1.0` and"),
    ):
        with pytest.raises(ValueError, match=f"Parameter `.*` should be .*{found}"):
            mtl_ops.backward(net.losses(0), net.parameters(), **options)
    assert all(gradient is None for gradient in grads(net))

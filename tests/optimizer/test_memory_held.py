"""What ``memory="stream"`` holds, leaves behind after an error, and refuses."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from multitask import (
    NAMES,
    Net,
    assert_equal,
    batch,
    every_method,
    grads,
    method,
    train,
    wrap,
)
from torch import Tensor, nn

from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import CoordinateMethod, Method

MEMORIES = (None, "stream")

pytestmark = pytest.mark.usefixtures("small_pieces")


# ---- what is held ---------------------------------------------------------------------------------

WIDTH, LAYERS = 611, 8  # a number of elements that no other tensor has


def most_held(tasks: int, **options: Any) -> int:
    """How many gradients of parameters are alive at most, each time when a backward has one more.

    Those that are merged already count, too.
    """
    params = [nn.Parameter(torch.randn(WIDTH)) for _ in range(LAYERS)]
    counts = []

    def look(_: Tensor) -> None:
        # by the type, as `isinstance` would ask objects that are proxies
        tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)]
        blocks = {
            t.untyped_storage().data_ptr()
            for t in tensors
            if t.shape == (WIDTH,)
            and t.untyped_storage().nbytes() >= 4 * WIDTH
            and not t.requires_grad
        }
        counts.append(len(blocks))

    for param in params:
        param.register_hook(look)
    optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), "mgda", **options)

    def losses() -> list[Tensor]:
        value = torch.ones(WIDTH, requires_grad=True)[:WIDTH]
        for param in params:
            value = Scaled.apply(value, param)
        return [(k + 1.0) * value.sum() for k in range(tasks)]

    gc.freeze()  # what there is already need not be looked through each time
    try:
        optimizer.backward(losses())
    finally:
        gc.unfreeze()
    return max(counts)


class Scaled(torch.autograd.Function):
    """A product that saves nothing of a parameter's size but the parameter."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return value * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad * 1.0, grad * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"granularity": "tensor", "nonfinite": "propagate"}, {"max_norm": 1.0}],
    ids=["two passes", "one pass", "clipped"],
)
@pytest.mark.parametrize("tasks", [2, 5])
def test_holds_the_gradients_of_one_task_less(tasks: int, options: dict[str, Any]) -> None:
    around = 4  # what the backward itself is working on
    assert most_held(tasks, **options) >= tasks * LAYERS
    assert most_held(tasks, memory="stream", **options) <= (tasks - 1) * LAYERS + around


@pytest.mark.parametrize(
    ("options", "backwards"),
    [
        ({"granularity": "tensor", "nonfinite": "propagate"}, 3),
        ({"granularity": "tensor", "nonfinite": "raise"}, 3),
        ({"method": "median", "nonfinite": "propagate"}, 3),
        ({"nonfinite": "propagate"}, 4),
        ({"granularity": "tensor"}, 4),
        ({"granularity": "tensor", "nonfinite": "propagate", "max_norm": 1.0}, 4),
        ({"granularity": "tensor", "nonfinite": "propagate", "max_task_norm": 1.0}, 4),
        ({"granularity": "tensor", "nonfinite": "propagate", "method": "pcgrad"}, 4),
        ({"granularity": "group", "nonfinite": "propagate"}, 4),  # there is one group only
        ({"method": "graddrop", "nonfinite": "propagate"}, 4),
    ],
    ids=str,
)
def test_how_many_backwards_it_takes(options: dict[str, Any], backwards: int) -> None:
    net = Net()
    seen: list[Tensor] = []
    net.trunk[0].weight.register_hook(seen.append)
    wrap(net, **{"method": "upgrad", **options}, memory="stream").backward(net.losses(batch()))
    assert len(seen) == backwards


def test_methods_with_a_memory_are_not_weighed_piece_by_piece() -> None:
    found = {name for name in every_method() if method(name).segmentwise}
    assert found >= {"upgrad", "mgda", "sum", "median"}
    assert not any(method(name).state_names or method(name).learns for name in found)
    assert not Method.segmentwise


# ---- what is remembered ---------------------------------------------------------------------------


def test_numbers_are_drawn_anew_in_each_step() -> None:
    """Also where the last piece is of a parameter that one task reaches."""
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        shared, own = nn.Parameter(torch.ones(50)), nn.Parameter(torch.ones(50))
        params = torch.optim.SGD([shared, own], lr=0.1)
        optimizer = MultiTaskOptimizer(params, "graddrop", memory=memory)  # type: ignore[arg-type]
        steps = []
        for _ in range(3):
            optimizer.zero_grad()
            value = own * 1.0 + shared * 0.0
            optimizer.backward([shared.sum() - value.sum(), -2.0 * shared.sum()])
            steps.append(shared.grad)
        found.append(steps)
        assert optimizer.method.calls == 3  # type: ignore[attr-defined]
    assert_equal(*found)
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize("name", ["gradvac", "gradnorm", "graddrop", "adaptive_sharing"])
def test_an_error_in_the_second_pass_leaves_no_trace(name: str) -> None:
    net = Net()
    optimizer = wrap(net, name, memory="stream", tasks=NAMES)
    train(net, optimizer, range(1))
    before = copy.deepcopy([optimizer.method.state_dict(), optimizer.report.times_skipped])
    calls = []

    def fail(_: Tensor) -> None:
        calls.append(None)
        if len(calls) == 4:
            raise RuntimeError("out of luck")

    hook = net.trunk[0].weight.register_hook(fail)
    losses = net.losses(batch(1))
    losses["b"] = losses["b"] * torch.inf
    with pytest.raises(RuntimeError, match="out of luck"):
        optimizer.backward(losses)
    hook.remove()
    after = [optimizer.method.state_dict(), optimizer.report.times_skipped]
    torch.testing.assert_close(after, before, rtol=0.0, atol=0.0, equal_nan=True)


def test_nothing_is_kept_after_an_error() -> None:
    """Without the garbage collector: whoever catches an error wants the memory back."""
    net = Net()
    optimizer = wrap(net, "upgrad", memory="stream")
    gradients: list[weakref.ref[Tensor]] = []
    net.trunk[0].weight.register_hook(lambda gradient: gradients.append(weakref.ref(gradient)))
    losses = net.losses(batch())

    def fail(_: Tensor) -> None:
        if len(gradients) > 2:
            raise RuntimeError("out of luck")

    net.trunk[0].weight.register_hook(fail)
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="out of luck") as caught:
            optimizer.backward(losses)
        del caught
        assert len(gradients) == 3
        assert all(gradient() is None for gradient in gradients)
    finally:
        gc.enable()


# ---- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["model", "tensor"])
def test_an_error_leaves_everything_as_it_was(granularity: str) -> None:
    net = Net()
    options = {"granularity": granularity, "nonfinite": "raise"}
    optimizer = wrap(net, "upgrad", memory="stream", **options)
    optimizer.backward(net.losses(batch()))
    before = grads(net)
    losses = net.losses(batch())
    losses["b"] = losses["b"] * torch.inf
    with pytest.raises(RuntimeError, match="The gradient of loss 'b' is not finite"):
        optimizer.backward(losses)
    assert_equal(before, grads(net))


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("call", [2, 3, 4])
def test_an_error_in_a_backward(call: int, granularity: str) -> None:
    net = Net()
    options = {"granularity": granularity, "nonfinite": "propagate"}
    optimizer = wrap(net, "upgrad", memory="stream", **options)
    optimizer.backward(net.losses(batch()))
    before = grads(net)
    calls = []

    def fail(_: Tensor) -> None:
        calls.append(None)
        if len(calls) == call:
            raise RuntimeError("out of luck")

    hook = net.trunk[0].weight.register_hook(fail)
    losses = net.losses(batch())
    if call == 4 and granularity == "tensor":
        optimizer.backward(losses)  # the last task takes one backward only
        assert len(calls) == 3
        return
    with pytest.raises(RuntimeError, match="out of luck"):
        optimizer.backward(losses)
    hook.remove()
    assert_equal(before, grads(net))
    assert not any(param._backward_hooks for param in net.parameters())


class Counting(CoordinateMethod):
    """A method of single coordinates with a memory."""

    name = "counting"
    state_names = ("calls",)
    calls = 0

    def merge_(self, out: Any, *args: Any, **given: Any) -> Tensor:
        raise NotImplementedError


# ---- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "streams"}, r"None or \"stream\". Found `memory = 'streams'`"),
        ({"batched": True}, "None with `batched`"),
        ({"gram_on": "features"}, "None with `gram_on`"),
        ({"method": "equal"}, "None with method 'equal', which takes one backward"),
        ({"method": "moco"}, "None with method 'moco', which remembers gradients"),
        ({"method": Counting()}, "None with method 'counting', which has to see all coordinates"),
    ],
    ids=str,
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Parameter `memory` should be {message}"):
        wrap(Net(), **{"method": "upgrad", "memory": "stream", **options})


def test_micro_batches_are_refused() -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", memory="stream")
    with pytest.raises(ValueError, match="Parameter `memory` should be None to accumulate"):
        optimizer.accumulate(net.losses(batch()))
    assert grads(net) == [None] * len(grads(net))

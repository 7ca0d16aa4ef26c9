"""``memory="stream"``: the same step, with fewer gradients at a time."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import (
    NAMES,
    Drawn,
    Fixed,
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
from torch import Tensor, nn

import mtl_ops
import mtl_ops.pieces
from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import CoordinateMethod, Method
from mtl_ops.report import Report

MEMORIES = (None, "stream")


@pytest.fixture(params=[1, 40, 2**20], ids=["each by itself", "several", "all in one"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many elements make a piece."""
    monkeypatch.setattr(mtl_ops.pieces, "PIECE", request.param)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parameter is a piece."""
    monkeypatch.setattr(mtl_ops.pieces, "PIECE", 1)


def streams(name: str) -> bool:
    """Whether a method takes one backward a task and lets go of the gradients."""
    return method(name).needs != "losses" and not method(name).tracks


def assert_same_report(one: Report, two: Report) -> None:
    """All that a user can read of it."""
    assert one.names == two.names
    for field in ("weights", "gram", "norms", "cosines", "losses", "skipped"):
        assert_same([getattr(one, field)], [getattr(two, field)], rtol=1e-6, atol=1e-9)
    assert_same([one.clip_scale], [two.clip_scale])
    assert_equal([one.times_skipped], [two.times_skipped])


def assert_same_steps(make: Callable[[], Method], steps: int = 3, **options: Any) -> None:
    """Some steps with and without, whose last gradients and reports are the same to rounding."""
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        net = Net()
        optimizer = wrap(net, make(), memory=memory, **options)
        train(net, optimizer, range(steps))
        found.append((grads(net), optimizer.report, list(net.parameters())))
    (plain, report, params), (streamed, other, others) = found
    assert_same(plain, streamed)
    assert_same(params, others)
    assert_same_report(report, other)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task"])
@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("name", [name for name in every_method() if streams(name)])
@pytest.mark.usefixtures("piece")
def test_every_method(name: str, granularity: str, nonfinite: str) -> None:
    options = {"granularity": granularity, "nonfinite": nonfinite}
    assert_same_steps(lambda: method(name), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_norm": 0.1},
        {"max_task_norm": 0.3},
        {"clip_value": 0.01},
        {"max_norm": 0.1, "max_task_norm": 0.3, "clip_value": 0.01, "granularity": "tensor"},
        {"task_weights": {"a": 2.0, "c": 0.5}},
        {"task_weights": {"c": 0.0}},
        {"nonfinite": "raise", "granularity": "tensor"},
        {"nonfinite": "skip_step"},
        {"weights_every": 2},
        {"grad_dtype": torch.float32, "nonfinite": "propagate"},
        {"grad_dtype": torch.float64},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["upgrad", "pcgrad", "median", "graddrop"])
@pytest.mark.usefixtures("small_pieces")
def test_with_other_options(name: str, options: dict[str, Any]) -> None:
    if "weights_every" in options and method(name).needs != "gram":
        pytest.skip("needs the whole gradient of every task in every step")
    assert_same_steps(lambda: method(name), **options)


@pytest.mark.parametrize("make", [Fixed, Drawn], ids=["stateless", "random"])
@pytest.mark.usefixtures("small_pieces")
def test_methods_of_users(make: Callable[[], Method]) -> None:
    assert_same_steps(make, granularity="tensor", nonfinite="propagate")


@pytest.mark.usefixtures("small_pieces")
def test_methods_that_need_losses_with_clipped_gradients() -> None:
    for name in ("equal", "dwa", "uncertainty"):
        assert_same_steps(lambda name=name: method(name), max_task_norm=0.3)  # type: ignore[misc]


@pytest.mark.parametrize("together", [True, False], ids=["heads together", "heads apart"])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task"])
@pytest.mark.usefixtures("piece")
def test_groups_of_parameters(nonfinite: str, together: bool) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        heads = [net.heads] if together else list(net.heads.values())
        groups = [{"params": part.parameters()} for part in (net.trunk, net.neck, *heads)]
        optimizer = MultiTaskOptimizer(
            torch.optim.SGD(groups, lr=0.05),
            "mgda",
            granularity="group",
            nonfinite=nonfinite,  # type: ignore[arg-type]
            memory=memory,  # type: ignore[arg-type]
        )
        train(net, optimizer, range(2))
        found.append((grads(net), optimizer.report))
    assert_same(found[0][0], found[1][0])
    assert_same_report(found[0][1], found[1][1])


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("nonfinite", ["propagate", "skip_task", "skip_step"])
@pytest.mark.parametrize("broken", NAMES)
@pytest.mark.usefixtures("small_pieces")
def test_a_gradient_that_is_not_finite(broken: str, nonfinite: str, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", nonfinite=nonfinite, granularity=granularity, memory=memory)
        for factor in (1.0, torch.inf, 1.0):
            losses = net.losses(batch())
            losses[broken] = losses[broken] * factor
            optimizer.zero_grad()
            optimizer.backward(losses)
            optimizer.step()
        found.append((list(net.parameters()), optimizer.report))
    assert_same(found[0][0], found[1][0])
    assert_equal([found[0][1].times_skipped], [found[1][1].times_skipped])


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.usefixtures("small_pieces")
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
@pytest.mark.usefixtures("small_pieces")
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


@pytest.mark.usefixtures("small_pieces")
def test_adds_to_what_is_there() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", memory=memory)
        optimizer.backward(net.losses(batch(0)))
        kept = [param.grad for param in net.parameters()]
        optimizer.backward(net.losses(batch(1)))
        assert all(a is p.grad for a, p in zip(kept, net.parameters(), strict=True))
        found.append(grads(net))
    assert_same(*found)


@pytest.mark.usefixtures("small_pieces")
def test_tasks_that_are_absent() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", tasks=NAMES, memory=memory)
        for absent in (["c"], ["a"], ["a", "c"], ["b", "c"], []):
            losses = {
                name: loss for name, loss in net.losses(batch()).items() if name not in absent
            }
            optimizer.zero_grad()
            optimizer.backward(losses)
            optimizer.step()
        found.append(list(net.parameters()))
    assert_same(*found)


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("scaled_by", [2.0**8, 2.0**126])
@pytest.mark.usefixtures("small_pieces")
def test_with_a_grad_scaler(scaled_by: float, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        net = Net(torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=scaled_by)
        options = {"granularity": granularity, "max_task_norm": 0.3, "grad_scaler": scaler}
        optimizer = wrap(net, "upgrad", memory=memory, **options)
        for step in range(2):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step, like=net)))
            scaler.step(optimizer)
            scaler.update()
        found.append(([*net.parameters()], scaler.get_scale()))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert (found[0][1] < scaled_by) == (scaled_by > 2.0**8)


@pytest.mark.usefixtures("small_pieces")
def test_tasks_that_take_turns() -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", groups=[["a"], ["b", "c"]], memory=memory)
        for step in range(2):
            optimizer.step(lambda net=net, step=step: net.losses(batch(step)))  # type: ignore[misc]
        found.append(list(net.parameters()))
    assert_same(*found)


@pytest.mark.parametrize("named", [0, 1, 3])
@pytest.mark.usefixtures("small_pieces")
def test_named_shared_parameters(named: int) -> None:
    found = []
    for memory in MEMORIES:
        net = Net()
        shared = list(net.parameters())[:named]
        optimizer = wrap(net, "mgda", shared=shared, memory=memory, nonfinite="propagate")
        optimizer.backward(net.losses(batch()))
        found.append(grads(net))
    assert_same(*found)


class Hidden(torch.autograd.Function):
    """The first argument; the graph leads to the second, which gets no gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        return value * 1.0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.usefixtures("piece")
@pytest.mark.filterwarnings("ignore:No loss reaches")
def test_unusual_parameters(last: int, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        table, layer = nn.Embedding(10, 4, sparse=True), nn.Linear(4, 4)
        own, hidden, idle, tied = (nn.Parameter(torch.ones(4)) for _ in range(4))
        params = [table.weight, *layer.parameters(), own, hidden, idle, tied]
        options = {"granularity": granularity, "nonfinite": "propagate", "memory": memory}
        optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), "upgrad", **options)  # type: ignore[arg-type]
        features = layer(table(torch.tensor([1, 2, 1, 5])) * tied).tanh() * tied
        losses = [features[:, 0].square().mean() + own.sum(), Hidden.apply(features, hidden).sum()]
        optimizer.backward(losses if last else losses[::-1])
        found.append([param.grad for param in params])
    assert_equal(*found)
    assert [grad is None for grad in found[0]] == [False] * 4 + [True, True, False]


def test_a_graph_that_is_kept() -> None:
    net = Net()
    optimizer = wrap(net, "upgrad", memory="stream")
    losses = net.losses(batch())
    optimizer.backward(losses, retain_graph=True)
    once = grads(net)
    optimizer.backward(losses)
    assert_same(grads(net), [None if g is None else 2.0 * g for g in once])


def test_a_compiled_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._functorch.config as config

    monkeypatch.setattr(config, "donated_buffer", True)
    torch._dynamo.reset()
    found = []
    for memory in MEMORIES:
        net = Net()
        optimizer = wrap(net, "upgrad", memory=memory)
        net.trunk.forward = torch.compile(net.trunk.forward, backend="aot_eager")  # type: ignore[method-assign]
        optimizer.backward(net.losses(batch()))
        found.append(grads(net))
    torch._dynamo.reset()
    assert_same(*found)


# ---- methods of users -----------------------------------------------------------------------------


class Segmentwise(Method):
    """Weights that depend on losses, are found by a derivative, and must not see NaN."""

    name = "segmentwise"
    segmentwise = True

    def __init__(self, uses_losses: bool) -> None:
        self.uses_losses = uses_losses

    def weights(self, gram: Tensor, losses: Tensor | None = None) -> Tensor:  # type: ignore[override]
        torch.linalg.eigh(gram)
        w = torch.ones_like(gram[..., 0], requires_grad=True)
        (slope,) = torch.autograd.grad((w.square() * gram.diagonal(dim1=-2, dim2=-1)).sum(), w)
        return slope if losses is None else slope * losses.nan_to_num(5.0)


@pytest.mark.parametrize("uses_losses", [False, True])
@pytest.mark.usefixtures("small_pieces")
def test_a_segmentwise_method(uses_losses: bool) -> None:
    options = {"granularity": "tensor", "nonfinite": "propagate"}
    assert_same_steps(lambda: Segmentwise(uses_losses), **options)


@pytest.mark.usefixtures("small_pieces")
def test_a_method_is_not_asked_about_what_is_an_error() -> None:
    net = Net()
    options = {"granularity": "tensor", "nonfinite": "raise"}
    optimizer = wrap(net, Segmentwise(False), memory="stream", **options)
    losses = net.losses(batch())
    losses["c"] = losses["c"] * torch.inf
    with pytest.raises(RuntimeError, match="The gradient of loss 'c' is not finite"):
        optimizer.backward(losses)
    assert grads(net) == [None] * len(grads(net))


class Counting(CoordinateMethod):
    """A method of single coordinates with a memory."""

    name = "counting"
    state_names = ("calls",)
    calls = 0

    def merge_(self, out: Any, *args: Any, **given: Any) -> Tensor:
        raise NotImplementedError


# ---- backwards within backwards -------------------------------------------------------------------


class Nested(torch.autograd.Function):
    """The square of ``value · weight``, differentiated by a backward of its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        ctx.weight = weight
        return (value * weight).square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (value,) = ctx.saved_tensors
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            again = (value * ctx.weight).square()
        return torch.autograd.grad(again, (value, ctx.weight), grad)


@pytest.mark.parametrize("granularity", ["model", "tensor"])
@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.usefixtures("small_pieces")
def test_a_backward_within_the_backward(thread: bool, granularity: str) -> None:
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(5)) for _ in range(3)]

        def other(_: Tensor, params: list[nn.Parameter] = params) -> None:
            with torch.enable_grad():
                value = (params[0] * params[1] * params[2]).sum()
            (gradient,) = torch.autograd.grad(value, params[1])
            assert torch.equal(gradient, params[0] * params[2])

        def in_thread(gradient: Tensor, other: Any = other) -> None:
            worker = threading.Thread(target=other, args=(gradient,))
            worker.start()
            worker.join()

        params[2].register_hook(in_thread if thread else other)
        options = {"granularity": granularity, "nonfinite": "propagate", "memory": memory}
        optimizer = MultiTaskOptimizer(torch.optim.SGD(params, lr=0.1), "sum", **options)  # type: ignore[arg-type]
        features = Nested.apply(Nested.apply(params[2] + 1.0, params[1]), params[0])
        optimizer.backward([features[0], features.sum()])
        found.append([param.grad for param in params])
    assert_equal(*found)


# ---- what is remembered ---------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
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
@pytest.mark.usefixtures("small_pieces")
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


def test_a_gradient_that_does_not_come_again() -> None:
    net = Net()
    optimizer = wrap(net, "sum", memory="stream")
    head = net.heads["c"].bias
    calls = []

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
            return value * 1.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
            calls.append(None)
            return grad, torch.ones(1, dtype=grad.dtype) if len(calls) == 1 else None

    head.data = torch.ones(1, dtype=torch.float64)
    outputs = net(batch())
    outputs["c"] = Once.apply(net.neck(net.trunk(batch())), head)
    losses = {name: output.sum() for name, output in outputs.items()}
    optimizer.backward(losses)
    assert len(calls) == 2
    assert head.grad is None


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


def test_a_parameter_that_is_twice_in_a_group() -> None:
    found = []
    for memory in MEMORIES:
        x = nn.Parameter(torch.ones(3))
        with pytest.warns(UserWarning, match="duplicate"):
            inner = torch.optim.SGD([x, x], lr=0.1)
        optimizer = MultiTaskOptimizer(inner, "sum", memory=memory)  # type: ignore[arg-type]
        optimizer.backward([x.sum(), 2.0 * x.sum()])
        found.append([x.grad, optimizer.report.gram])
    assert_equal(*found)
    assert found[0][0].tolist() == [3.0] * 3
    assert found[0][1].tolist() == [[[3.0, 6.0], [6.0, 12.0]]]


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
@pytest.mark.usefixtures("small_pieces")
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

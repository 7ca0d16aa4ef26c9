"""Bad input gets one sentence that names it, before anything changes."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from multitask import NAMES, Net, assert_equal, batch, every_method, grads, method, train, wrap
from torch import nn

import mtl_ops
from mtl_ops import MultiTaskOptimizer

#: "Parameter `x` should ... . Found ... ."
SENTENCE = re.compile(r"(Parameters?|A method|Method) .+ (should|has|needs|works).+", re.DOTALL)


def is_a_sentence(error: BaseException) -> bool:
    text = str(error)
    return bool(SENTENCE.fullmatch(text)) and "\n" not in text and len(text) < 400


#: What is handed to `backward`, the error, and what its text names.
LOSSES: dict[str, tuple[Callable[[Net], Any], type[Exception], str]] = {
    "empty dict": (lambda net: {}, ValueError, "`losses` should hold at least one loss"),
    "empty list": (lambda net: [], ValueError, "`losses` should hold"),
    "empty tensor": (
        lambda net: torch.zeros(0, requires_grad=True) * 1,
        ValueError,
        "`losses` should hold",
    ),
    "all absent": (
        lambda net: dict.fromkeys(NAMES),
        ValueError,
        "`losses` should hold at least one loss. Found none",
    ),
    "not scalar": (
        lambda net: {**net.losses(batch()), "b": net(batch())["b"]},
        ValueError,
        r"`losses` should hold scalars. Found loss 'b' of shape \(8, 1\)",
    ),
    "no gradient": (
        lambda net: {**net.losses(batch()), "c": torch.tensor(1.0)},
        ValueError,
        "`losses` should hold tensors that require a gradient. Found loss 'c'",
    ),
    "stacked with a constant": (
        lambda net: torch.stack([*[net(batch())["a"].sum()] * 2, torch.ones(()).double()]),
        ValueError,
        r"require a gradient. Found loss ('c'|2), which does not",
    ),
    "detached": (
        lambda net: {name: loss.detach() for name, loss in net.losses(batch()).items()},
        ValueError,
        "require a gradient. Found loss 'a'",
    ),
    "made under no_grad": (
        lambda net: no_grad(lambda: net.losses(batch())),
        ValueError,
        "require a gradient. Found loss 'a'",
    ),
    "on two devices": (
        lambda net: {
            **net.losses(batch()),
            "b": torch.zeros((), device="meta", requires_grad=True),
        },
        ValueError,
        "`losses` should hold tensors on one device. Found loss 'b' on meta and another on cpu",
    ),
    "unknown name": (
        lambda net: {**net.losses(batch()), "d": net.losses(batch())["a"]},
        ValueError,
        r"`losses` should hold only the tasks \['a', 'b', 'c'\].*Found 'd'",
    ),
    "too few": (
        lambda net: list(net.losses(batch()).values())[:2],
        ValueError,
        r"`losses` should hold 3 losses.*Found 2",
    ),
    "too many": (
        lambda net: [*net.losses(batch()).values()] * 2,
        ValueError,
        r"`losses` should hold 3 losses.*Found 6",
    ),
    "a number": (lambda net: 1.0, TypeError, "`losses` should be a dict, .*Found float"),
    "None": (lambda net: None, TypeError, "`losses` should be a dict, .*Found NoneType"),
    "a set": (
        lambda net: set(net.losses(batch()).values()),
        TypeError,
        "`losses` should be a dict, .*Found set",
    ),
    "a string": (lambda net: "abc", TypeError, "`losses` should be a dict, .*Found str"),
    "a generator": (
        lambda net: (loss for loss in net.losses(batch()).values()),
        TypeError,
        "`losses` should be a dict, .*Found generator",
    ),
    "a matrix": (
        lambda net: torch.stack(list(net.losses(batch()).values())).reshape(1, 3),
        ValueError,
        r"`losses` should be a dict, .*Found a tensor of shape \(1, 3\)",
    ),
    "a summed loss": (
        lambda net: sum(net.losses(batch()).values()),
        ValueError,
        r"`losses` should be a dict, .*Found a tensor of shape \(\)",
    ),
    "numbers": (
        lambda net: {**net.losses(batch()), "b": 2.0},
        TypeError,
        "`losses` should hold tensors. Found loss 'b' of type float",
    ),
    "graph freed": (lambda net: freed(net), RuntimeError, "`losses` should hold .* was freed"),
    "graph of one freed": (
        lambda net: {**net.losses(batch()), "b": freed(net)["b"]},
        RuntimeError,
        "The graph of loss 'b' was freed by an earlier backward",
    ),
    "reaches nothing": (
        lambda net: Net(seed=1).losses(batch()),
        ValueError,
        "`losses` should depend on the parameters that are optimized. Found none that does",
    ),
}


def no_grad(call: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return call()


def freed(net: Net) -> dict[str, torch.Tensor]:
    losses = net.losses(batch())
    torch.autograd.grad(list(losses.values()), list(net.parameters()))
    return losses


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str) -> None:
    make, kind, text = LOSSES[case]
    net = Net()
    optimizer = wrap(net, "mean", inner_options={"momentum": 0.9})
    train(net, optimizer, range(2))
    before = grads(net), copy.deepcopy(optimizer.state_dict())
    assert all(gradient is not None for gradient in before[0])
    with pytest.raises(kind, match=text) as error:
        optimizer.backward(make(net))
    assert is_a_sentence(error.value), error.value
    assert_equal(grads(net), before[0])
    assert leaves(optimizer.state_dict()) == leaves(before[1])


@pytest.mark.parametrize("case", LOSSES)
def test_losses_of_the_function(case: str) -> None:
    make, kind, text = LOSSES[case]
    net = Net()
    mtl_ops.backward(net.losses(batch()), net.parameters(), "mean")
    before = grads(net)
    if case in ("unknown name", "too few", "too many"):  # nothing is remembered there
        mtl_ops.backward(make(net), net.parameters(), "mean", retain_graph=True)
        return
    with pytest.raises(kind, match=text):
        mtl_ops.backward(make(net), net.parameters(), "mean")
    assert_equal(grads(net), before)


def leaves(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in leaves(value)]
    if isinstance(state, (list, tuple)):
        return [leaf for value in state for leaf in leaves(value)]
    return state.flatten().tolist() if isinstance(state, torch.Tensor) else [state]


#: Arguments of the optimizer, of `backward` and of `merge`, the error, and what its text says.
OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[
        ({name: value}, ValueError, f"Parameter `{name}` should be positive. Found `{name} = ")
        for name in ("max_norm", "max_task_norm", "clip_value")
        for value in (0, 0.0, -1.0, float("nan"), -float("inf"))
    ],
    *[
        ({name: value}, TypeError, f"Parameter `{name}` should be a number or None. Found `{name}")
        for name in ("max_norm", "max_task_norm", "clip_value")
        for value in ("1", True, [1.0], torch.tensor(1.0))
    ],
    ({"nonfinite": "ignore"}, ValueError, "Parameter `nonfinite` should be one of skip_task, "),
    ({"nonfinite": None}, ValueError, "Parameter `nonfinite` should be one of "),
    (
        {"normalise": "l1"},
        ValueError,
        r"Parameter `normalise` should be one of none, l2, loss, loss\+. Found `normalise = 'l1'`",
    ),
    ({"normalise": None}, ValueError, "Parameter `normalise` should be one of .*Found `normalise"),
    (
        {"normalise": "l2", "keep_scale": 1},
        TypeError,
        "Parameter `keep_scale` should be True or False. Found `keep_scale = 1`",
    ),
    (
        {"keep_scale": True},
        ValueError,
        "Parameter `keep_scale` should be False without `normalise`, .*Found `keep_scale = True`",
    ),
    (
        {"task_weights": [1.0, 2.0]},
        ValueError,
        "Parameter `task_weights` should hold 3 weights. Found 2",
    ),
    ({"task_weights": [1.0] * 4}, ValueError, "Parameter `task_weights` should hold 3 .*Found 4"),
    (
        {"task_weights": [1.0, -1.0, 1.0]},
        ValueError,
        "Parameter `task_weights` should hold finite numbers of at least 0. Found -1.0",
    ),
    ({"task_weights": [1.0, float("nan"), 1.0]}, ValueError, "Parameter `task_weights` .*nan"),
    ({"task_weights": [1.0, float("inf"), 1.0]}, ValueError, "Parameter `task_weights` .*inf"),
    (
        {"task_weights": [0.0, 0.0, 0.0]},
        ValueError,
        "Parameter `task_weights` should hold a positive number. Found only 0",
    ),
    ({"task_weights": [1.0, "2", 1.0]}, TypeError, "Parameter `task_weights` should hold numbers"),
    ({"task_weights": 2.0}, TypeError, "Parameter `task_weights` should be a dict.*Found float"),
    ({"task_weights": "abc"}, TypeError, "Parameter `task_weights` should be a dict.*Found str"),
    (
        {"task_weights": lambda step: 2.0},
        TypeError,
        "Parameter `task_weights` should be a dict, .*Found float",
    ),
    ({"task_weights": lambda step: [1.0]}, ValueError, "Parameter `task_weights` .*Found 1"),
]

NAMED = [
    (
        {"task_weights": {"d": 1.0}},
        ValueError,
        r"Parameter `task_weights` should name tasks out of \['a', 'b', 'c'\]. Found 'd'",
    ),
    ({"task_weights": {"a": -0.5}}, ValueError, "Parameter `task_weights` .*Found -0.5"),
]

only_optimizer = [
    ({"granularity": "layer"}, ValueError, "Parameter `granularity` should be one of model, "),
    ({"tasks": "abc"}, TypeError, "Parameter `tasks` should be a sequence of names. Found 'abc'"),
    ({"tasks": [1, 2]}, TypeError, "Parameter `tasks` should be a sequence of names"),
    ({"tasks": []}, ValueError, "Parameter `tasks` should name at least one task"),
    ({"tasks": ["a", "b", "a"]}, ValueError, "Parameter `tasks` should .* each once"),
    ({"shared": torch.zeros(2)}, TypeError, "Parameter `shared` should be an iterable"),
    (
        {"shared": [nn.Parameter(torch.zeros(2))]},
        ValueError,
        "Parameter `shared` should hold parameters of the optimizer. Found another at place 0",
    ),
]


def shown(case: tuple[dict[str, Any], type[Exception], str]) -> str:
    """Without addresses: every process that collects tests should find the same names."""
    return re.sub(" at 0x[0-9a-f]+", "", str(case[0]))[:50]


@pytest.mark.parametrize("case", [*OPTIONS, *NAMED, *only_optimizer], ids=shown)
def test_options_of_the_optimizer(case: tuple[dict[str, Any], type[Exception], str]) -> None:
    options, kind, text = case
    net = Net()
    with pytest.raises(kind, match=text) as error:
        wrap(net, "mean", **{"tasks": NAMES, **options}).backward(net.losses(batch()))
    assert is_a_sentence(error.value), error.value
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("case", [*OPTIONS, *NAMED], ids=shown)
def test_options_of_the_optimizer_without_known_tasks(
    case: tuple[dict[str, Any], type[Exception], str],
) -> None:
    options, kind, text = case
    net = Net()
    with pytest.raises(kind, match=text):
        wrap(net, "mean", **options).backward(net.losses(batch()))
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("case", [*OPTIONS, *NAMED], ids=shown)
def test_options_of_backward(case: tuple[dict[str, Any], type[Exception], str]) -> None:
    options, kind, text = case
    net = Net()
    with pytest.raises(kind, match=text):
        mtl_ops.backward(net.losses(batch()), net.parameters(), "mean", **options)
    assert all(param.grad is None for param in net.parameters())


@pytest.mark.parametrize("case", OPTIONS, ids=shown)
def test_options_of_merge(case: tuple[dict[str, Any], type[Exception], str]) -> None:
    options, kind, text = case
    with pytest.raises(kind, match=text):
        mtl_ops.merge(torch.ones(3, 4), "mean", **options)


def test_task_weights_are_checked_at_once_where_the_tasks_are_known() -> None:
    with pytest.raises(ValueError, match="Parameter `task_weights` should name"):
        wrap(Net(), "mean", tasks=NAMES, task_weights={"d": 1.0})
    with pytest.raises(ValueError, match="Parameter `task_weights` should be a sequence"):
        net = Net()
        wrap(net, "mean", task_weights={"a": 1.0}).backward(list(net.losses(batch()).values()))


METHODS: list[tuple[Any, type[Exception], str]] = [
    (
        "mea",
        ValueError,
        "Parameter `method` should be one of .*Found `method = 'mea'`. Did you mean",
    ),
    ("", ValueError, "Parameter `method` should be one of "),
    (None, TypeError, "Parameter `method` should be a name or a method"),
    (3, TypeError, "Parameter `method` should be a name or a method"),
    (mtl_ops.methods.Mean, TypeError, "Parameter `method` should be a name or a method"),
]


@pytest.mark.parametrize(("name", "kind", "text"), METHODS, ids=str)
def test_unknown_method(name: Any, kind: type[Exception], text: str) -> None:
    net = Net()
    calls: list[Callable[[], object]] = [
        lambda: MultiTaskOptimizer(torch.optim.SGD(net.parameters(), lr=0.1), name),
        lambda: mtl_ops.merge(torch.ones(2, 3), name),
        lambda: mtl_ops.backward(net.losses(batch()), net.parameters(), name),
    ]
    for call in calls:
        with pytest.raises(kind, match=text) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", every_method())
def test_no_method_swallows_what_it_does_not_know(name: str) -> None:
    net = Net()
    optimizer = wrap(net, method(name))
    with pytest.raises(TypeError, match="retain_graf"):
        optimizer.backward(net.losses(batch()), retain_graf=True)
    assert all(param.grad is None for param in net.parameters())


class TestRegistry:
    def test_name_is_taken(self) -> None:
        with pytest.raises(ValueError, match="Parameter `name` should be a new name"):
            mtl_ops.methods.register("mean")(type("Other", (mtl_ops.methods.Mean,), {}))
        assert mtl_ops.methods.get("mean").__class__ is mtl_ops.methods.Mean

    @pytest.mark.parametrize("name", ["", None, 3])
    def test_name_is_no_name(self, name: Any) -> None:
        with pytest.raises(ValueError, match="Parameter `name` should be a name"):
            mtl_ops.methods.register(name)

    @pytest.mark.parametrize("thing", [object, 3, lambda: None])
    def test_what_is_no_method(self, thing: Any) -> None:
        with pytest.raises(TypeError, match="A method should be a class derived from Method"):
            mtl_ops.methods.register("thing")(thing)
        assert "thing" not in mtl_ops.methods.available()

    def test_unregister_needs_a_method(self) -> None:
        with pytest.raises(ValueError, match="Parameter `method` should be one of"):
            mtl_ops.methods.unregister("thing")

    def test_unknown_and_missing_parameters(self) -> None:
        with pytest.raises(TypeError, match=r"Method 'mean' has other parameters.*'c'.*: none"):
            mtl_ops.methods.get("mean", c=1)
        with pytest.raises(TypeError, match=r"Method 'constant' has other parameters.*`weights`"):
            mtl_ops.methods.get("constant")


class TestMerge:
    @pytest.mark.parametrize(
        ("gradients", "kind", "text"),
        [
            ([[1.0]], TypeError, "Parameter `gradients` should be a tensor. Found list"),
            (
                torch.ones(3),
                ValueError,
                r"`gradients` should have shape \(T, N\).*Found shape \(3,\)",
            ),
            (torch.ones(0, 3), ValueError, "`gradients` should have shape .*with T at least 1"),
            (torch.ones(2, 2, 2), ValueError, "`gradients` should have shape"),
            (torch.ones(2, 2).long(), TypeError, "`gradients` should have .* Found torch.int64"),
            (torch.ones(2, 2).cfloat(), TypeError, "should have .* Found torch.complex64"),
            (torch.ones(2, 2).to(torch.float8_e4m3fn), TypeError, "Found torch.float8_e4m3fn"),
            (torch.ones(2, 2).to_sparse(), TypeError, "should be a dense tensor. Found layout"),
            (torch.nested.nested_tensor([torch.ones(2)]), TypeError, "Found a nested tensor"),
        ],
        ids=str,
    )
    def test_gradients(self, gradients: Any, kind: type[Exception], text: str) -> None:
        with pytest.raises(kind, match=text) as error:
            mtl_ops.merge(gradients, "mean")
        assert is_a_sentence(error.value)

    @pytest.mark.parametrize("losses", [torch.ones(2), torch.ones(3, 1), [1.0, 2.0, 3.0], 1.0])
    def test_losses(self, losses: Any) -> None:
        with pytest.raises(
            ValueError, match=r"Parameter `losses` should be a tensor of shape \(3,\)"
        ):
            mtl_ops.merge(torch.ones(3, 4), "mean", losses=losses)

    def test_method_that_needs_losses(self) -> None:
        with pytest.raises(TypeError, match="parameter `losses` should be a tensor"):
            mtl_ops.merge(torch.ones(3, 4), "dwa")


class TestParameters:
    def test_of_backward(self) -> None:
        net = Net()
        with pytest.raises(TypeError, match="Parameter `params` should be an iterable"):
            mtl_ops.backward(net.losses(batch()), net.trunk[0].weight, "mean")
        with pytest.raises(
            ValueError, match="Parameter `params` should hold a tensor that requires"
        ):
            mtl_ops.backward(net.losses(batch()), [torch.zeros(2)], "mean")
        with pytest.raises(ValueError, match="Parameter `params`"):
            mtl_ops.backward(net.losses(batch()), [], "mean")
        others: list[tuple[Any, type[Exception]]] = [
            (net.neck.weight, TypeError),
            ([torch.zeros(2)], ValueError),
        ]
        for shared, kind in others:
            with pytest.raises(kind, match="Parameter `shared` should"):
                mtl_ops.backward(net.losses(batch()), net.parameters(), "mean", shared=shared)
        assert all(param.grad is None for param in net.parameters())

    def test_of_an_optimizer_that_are_all_frozen(self) -> None:
        net = Net()
        optimizer = wrap(net)
        losses = net.losses(batch())
        net.requires_grad_(False)
        with pytest.raises(ValueError, match=r"should .* that requires? a gradient") as error:
            optimizer.backward(losses)
        assert is_a_sentence(error.value)

    def test_complex_parameters(self) -> None:
        param = torch.ones(2, dtype=torch.complex64, requires_grad=True)
        optimizer = wrap([param], "mean")
        with pytest.raises((RuntimeError, TypeError), match="float32, float64"):
            optimizer.backward([param.abs().sum(), param.real.sum()])
        assert param.grad is None

    def test_complex_losses(self) -> None:
        param = torch.ones(2, dtype=torch.complex64, requires_grad=True)
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            wrap([param], "mean").backward([param.sum(), param.abs().sum()])
        assert param.grad is None


class TestObservation:
    def test_method_without_use_for_it(self) -> None:
        net = Net()
        optimizer = wrap(net, "mean")
        train(net, optimizer, range(1))
        with pytest.raises(TypeError, match=r"Method 'mean' has no use for losses after the step"):
            optimizer.observe(net.losses(batch()))


@pytest.mark.parametrize("module", ["mtl_ops", "mtl_ops.ops"])
def test_a_package_that_is_not_built_says_how_to_build_it(module: str) -> None:
    code = f"import sys; sys.modules['mtl_ops._C'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: mtl_ops is not built for this Python and torch: run `pip" in done.stderr


class TestOptionsThatOneProcessHardlyUses:
    @pytest.mark.parametrize(
        "samples", [-1, "x", float("nan"), [1.0], {"d": 2.0}, None, [1, 2, "3"], True], ids=repr
    )
    def test_samples(self, samples: Any) -> None:
        net = Net()
        optimizer = wrap(net, "famo")
        for call in (optimizer.backward, optimizer.accumulate, optimizer.observe):
            with pytest.raises(ValueError, match="Parameter `samples` should"):
                call(dict(zip(NAMES, net.losses(batch()).values(), strict=True)), samples=samples)
        assert all(param.grad is None for param in net.parameters())

    @pytest.mark.parametrize(
        "weights", [3, "abc", [1.0, "2"], {"a": None}, [0.0, 0.0], [-1.0]], ids=repr
    )
    def test_task_weights(self, weights: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="Parameter `task_weights` should"):
            wrap(Net(), task_weights=weights)

    def test_task_weights_that_are_fine_so_far(self) -> None:
        for weights in ({"a": 0.0}, {}, (1, 2, 3), None, lambda step: 3):
            wrap(Net(), task_weights=weights)

    @pytest.mark.parametrize("every", [True, 1.0, 0, "2"], ids=repr)
    def test_weights_every(self, every: Any) -> None:
        with pytest.raises(ValueError, match="Parameter `weights_every` should be a positive"):
            wrap(Net(), "upgrad", weights_every=every)

    @pytest.mark.parametrize("leak", [0.5, [0.1, 0.2, 0.3]], ids=str)
    def test_leak_of_graddrop_as_a_tensor(self, leak: Any) -> None:
        rows = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
        uniforms = torch.rand(20, generator=torch.Generator().manual_seed(1))
        tensor = torch.tensor(leak, dtype=torch.float64)
        found = mtl_ops.merge(rows, mtl_ops.methods.GradDrop(leak=tensor), uniforms=uniforms)
        same = mtl_ops.methods.GradDrop(leak=leak)
        assert torch.equal(found, mtl_ops.merge(rows, same, uniforms=uniforms))
        with pytest.raises(ValueError, match="`leak` should be"):
            mtl_ops.methods.GradDrop(leak=tensor + 1)


class TestTransforms:
    """Within ``torch.func`` nothing would be differentiated."""

    @pytest.mark.parametrize(
        "transform",
        [
            lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
            lambda f, x: torch.func.vmap(f)(x.expand(4, *x.shape)),
            lambda f, x: torch.func.jvp(f, (x,), (x,)),
            lambda f, x: torch.func.functionalize(f)(x),
            lambda f, x: torch.func.jacrev(f)(x),
        ],
        ids=["grad", "vmap", "jvp", "functionalize", "jacrev"],
    )
    def test_a_sentence(self, transform: Callable[[Callable[..., Any], Any], Any]) -> None:
        matrix = torch.randn(2, 3)

        def backward(x: torch.Tensor) -> torch.Tensor:
            mtl_ops.backward([x.sum(), x.square().sum()], [x], "sum")
            return x

        with pytest.raises(RuntimeError, match=r"`gradients` should .* torch.func") as error:
            transform(lambda x: mtl_ops.merge(x, "sum"), matrix)
        assert is_a_sentence(error.value)
        with pytest.raises(RuntimeError, match=r"`losses` should .* torch.func") as error:
            transform(backward, matrix)
        assert is_a_sentence(error.value)
        for call in (mtl_ops.ops.gram, torch.ops.mtl_ops.gram):
            more = () if call is mtl_ops.ops.gram else ([], None)
            with pytest.raises(RuntimeError, match=r"mtl_ops.gram should .* torch.func"):
                transform(lambda x, c=call, m=more: c(list(x.unbind()), 2, *m), matrix)

    def test_what_is_not_transformed_is_merged(self) -> None:
        rows = list(torch.randn(2, 3).unbind())
        expected = mtl_ops.ops.gram(rows, 2)
        factor = torch.ones(3)
        found = torch.func.vmap(lambda x: x * mtl_ops.ops.gram(rows, 2).sum())(factor)
        torch.testing.assert_close(found, expected.sum().expand(3))


class TestDtypesThatNothingIsMergedIn:
    @pytest.mark.parametrize("options", [{}, {"memory": "stream"}, {"granularity": "tensor"}])
    @pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
    def test_parameters(self, dtype: torch.dtype, options: dict[str, Any]) -> None:
        x = torch.ones(3).to(dtype).requires_grad_()
        real = x.real if dtype.is_complex else x.float()
        optimizer = MultiTaskOptimizer(torch.optim.SGD([x], lr=1.0), "sum", **options)
        for call in (optimizer.backward, lambda losses: mtl_ops.backward(losses, [x], "sum")):
            with pytest.raises(TypeError, match=f"have gradients of .* Found {dtype}") as error:
                call([(real * 1).sum(), real.square().sum()])
            assert is_a_sentence(error.value)
            assert x.grad is None
            real = x.real if dtype.is_complex else x.float()

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
    def test_micro_batches(self, dtype: torch.dtype) -> None:
        x = torch.ones(3).to(dtype).requires_grad_()
        real = x.real if dtype.is_complex else x.float()
        optimizer = MultiTaskOptimizer(torch.optim.SGD([x], lr=1.0), "sum")
        with pytest.raises(TypeError, match=f"have gradients of .* Found {dtype}"):
            optimizer.accumulate([(real * 1).sum(), real.square().sum()])

    def test_losses(self) -> None:
        x = torch.ones(3, dtype=torch.complex64, requires_grad=True)
        with pytest.raises(
            TypeError, match=r"real numbers. Found loss 1 of torch.complex64"
        ) as error:
            mtl_ops.backward([x.real.sum(), x.sum()], [x], "sum")
        assert is_a_sentence(error.value)

"""``torch.compile``: one backward a task of a model that was compiled for one backward."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch._functorch.config as config
from multitask import NAMES, Fixed, Net, assert_equal, assert_same, batch, grads, train, wrap
from torch import Tensor

from mtl_ops.gradients.graph import node_names


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """As in a new process: nothing is compiled, and the settings are torch's own."""
    before = config.donated_buffer
    torch._dynamo.reset()
    config.donated_buffer = True
    yield
    torch._dynamo.reset()
    config.donated_buffer = before


def compiled(net: Net, *, whole: bool = True) -> Net:
    """The network with its forward, or only its trunk, compiled; the parameters are the same."""
    if whole:
        net.forward = torch.compile(net.forward, backend="aot_eager")  # type: ignore[method-assign]
    else:
        # not `trunk.compile()`, which leaves the containers of torch.nn as they are
        net.trunk.forward = torch.compile(net.trunk.forward, backend="aot_eager")
    return net


def shared_of(net: Net) -> list[Tensor]:
    return [*net.trunk.parameters(), *net.neck.parameters()]


@pytest.mark.parametrize("whole", [True, False], ids=["model", "trunk"])
def test_trains_as_without(whole: bool) -> None:
    net, plain = compiled(Net(), whole=whole), Net()
    assert "CompiledFunctionBackward" in node_names(list(net.losses(batch()).values()))
    torch._dynamo.reset()
    # Whatever the compiled function returns, it is told apart by name.
    optimizer = wrap(net, Fixed(), max_norm=0.5, shared=shared_of(net))
    train(net, optimizer, range(4))
    train(plain, wrap(plain, Fixed(), max_norm=0.5), range(4))
    assert_same(net.parameters(), plain.parameters())


def test_tasks_may_come_and_go() -> None:
    # The first backward is the only one of its batch, and would be compiled to be the last.
    net, plain = compiled(Net()), Net()
    optimizer = wrap(net, "mean", tasks=NAMES, shared=shared_of(net))
    other = wrap(plain, "mean", tasks=NAMES, shared=shared_of(plain))
    for step, present in enumerate(("b", "ab", "abc", "c", "ca")):
        for model, opt in ((net, optimizer), (plain, other)):
            opt.zero_grad()
            losses = model.losses(batch(step))
            opt.backward({name: losses[name] for name in present})
            opt.step()
    assert_same(net.parameters(), plain.parameters())


def test_plain_backwards_in_between() -> None:
    net = compiled(Net())
    optimizer = wrap(net, "sum", shared=shared_of(net))
    sum(net.losses(batch()).values()).backward()
    expected = grads(net)
    optimizer.zero_grad()
    optimizer.backward(net.losses(batch()))
    assert_same(grads(net), expected)


def test_what_was_compiled_before_is_never_differentiated_wrongly() -> None:
    # Here the backward reuses the memory of what the forward saved: an error, and no wrong gradient.
    net = compiled(Net())
    sum(net.losses(batch()).values()).backward()
    before = grads(net)
    optimizer = wrap(net, "sum")
    assert config.donated_buffer
    with pytest.raises(RuntimeError, match="compiled for a single backward") as error:
        optimizer.backward(net.losses(batch()))
    assert "Parameter `losses` should come from a model" in str(error.value)
    assert_equal(grads(net), before)


def test_the_remedy_of_the_message_helps() -> None:
    net = compiled(Net())
    config.donated_buffer = False
    sum(net.losses(batch()).values()).backward()
    expected = grads(net)
    net.zero_grad()
    wrap(net, "sum", shared=shared_of(net)).backward(net.losses(batch()))
    assert_same(grads(net), expected)


class TestSharing:
    def test_heads_in_the_compiled_part_look_shared_which_is_said_once(self) -> None:
        net = compiled(Net())
        optimizer = wrap(net, "mean")
        with pytest.warns(UserWarning, match="hides what each of them reaches") as seen:
            optimizer.backward(net.losses(batch()))
        assert seen[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(net, optimizer, range(2))

    @pytest.mark.filterwarnings("error:.*hides what")
    def test_not_where_the_heads_are_outside(self) -> None:
        net, plain = compiled(Net(), whole=False), Net()
        wrap(net, "mean").backward(net.losses(batch()))
        wrap(plain, "mean").backward(plain.losses(batch()))
        assert_same(grads(net), grads(plain))

    @pytest.mark.filterwarnings("error:.*hides what")
    def test_not_where_the_user_says_what_is_shared(self) -> None:
        net, plain = compiled(Net()), Net()
        wrap(net, Fixed(), shared=shared_of(net)).backward(net.losses(batch()))
        wrap(plain, Fixed()).backward(plain.losses(batch()))
        assert_same(grads(net), grads(plain))


def test_compiled_step_function() -> None:
    # Forward and losses in one compiled function.
    net, plain = Net(), Net()

    @torch.compile(backend="aot_eager")
    def losses(data: Tensor) -> dict[str, Tensor]:
        return net.losses(data)

    optimizer = wrap(net, "sum", shared=shared_of(net))
    for step in range(2):
        optimizer.zero_grad()
        optimizer.backward(losses(batch(step)))
        optimizer.step()
    train(plain, wrap(plain, "sum"), range(2))
    assert_same(net.parameters(), plain.parameters())

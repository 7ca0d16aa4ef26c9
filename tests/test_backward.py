"""One backward by autograd's engine is what ``torch.autograd`` computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from mtl_ops.gradients import backward
from mtl_ops.gradients.backward import accumulate, derive


class Subclass(Tensor):
    """Sees the functions of torch that are called with it."""

    seen: list[Any]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


class Watching(TorchFunctionMode):
    """Sees all functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **kwargs or {})


def parts() -> tuple[list[nn.Parameter], list[Tensor]]:
    """Three parameters, of which nothing uses the last, and three outputs."""
    x = [nn.Parameter(torch.arange(1.0, 4.0) + k) for k in range(3)]
    return x, [(x[0] * x[1]).sum(), x[0].exp(), (x[1] - 2).square().sum().double()]


def edges(outputs: Sequence[Tensor]) -> list[GradientEdge]:
    return [GradientEdge(one.grad_fn, one.output_nr) for one in outputs]


GIVEN = torch.tensor([0.5, -1.0, 2.0])


@pytest.fixture(params=["engine", "torch.autograd"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the private name of torch is missing."""
    assert backward._run is not None
    if request.param == "torch.autograd":
        monkeypatch.setattr(backward, "_run", None)


@pytest.mark.parametrize("as_edges", [False, True])
def test_derive_is_as_autograd_grad(way: None, as_edges: bool) -> None:
    x, outputs = parts()
    factors = [None, GIVEN, None]
    wanted = torch.autograd.grad(outputs, x, factors, retain_graph=True, allow_unused=True)
    found = derive(edges(outputs) if as_edges else outputs, x, factors, True)
    assert found[2] is wanted[2] is None
    assert all(torch.equal(a, b) for a, b in zip(found[:2], wanted[:2], strict=True))
    assert all(param.grad is None for param in x)
    derive(outputs, x, factors, False)
    with pytest.raises(RuntimeError, match="second time"):
        derive(outputs, x, factors, False)


def test_accumulate_is_as_autograd_backward(way: None) -> None:
    (x, outputs), (y, others) = parts(), parts()
    factors = [torch.tensor(2.0), GIVEN, torch.tensor(0.5).double()]
    for _ in range(2):
        accumulate(outputs, factors, x[:1], True)
        torch.autograd.backward(others, factors, retain_graph=True, inputs=y[:1])
    assert torch.equal(x[0].grad, y[0].grad)  # type: ignore[arg-type]
    assert x[1].grad is x[2].grad is None
    accumulate(outputs, factors, x[:1], False)
    with pytest.raises(RuntimeError, match="second time"):
        accumulate(outputs, factors, x[:1], False)


def test_an_output_that_is_no_scalar_needs_a_factor(way: None) -> None:
    x, outputs = parts()
    for given in (outputs, edges(outputs)):
        with pytest.raises(RuntimeError, match="implicitly created only for scalar outputs"):
            derive(given, x, [None, None, None], True)


def test_hooks_are_called(way: None) -> None:
    x, outputs = parts()
    seen = []
    x[0].register_hook(lambda gradient: seen.append("tensor"))
    x[0].register_post_accumulate_grad_hook(lambda param: seen.append("accumulated"))
    accumulate(outputs[:1], [torch.ones(())], x[:1], True)
    assert seen == ["tensor", "accumulated"]
    derive(outputs[:1], x[:1], [None], False)
    assert seen == ["tensor", "accumulated", "tensor"]


def test_a_subclass_and_a_mode_see_the_call() -> None:
    x = nn.Parameter(torch.ones(2))
    Subclass.seen = []
    loss = x.as_subclass(Subclass).square().sum()
    (found,) = derive([loss], [x], [torch.ones(())], False)
    assert torch.autograd.grad in Subclass.seen
    assert found is not None
    assert found.tolist() == [2.0, 2.0]
    loss = x.square().sum()
    with Watching() as watching:
        accumulate([loss], [torch.ones(())], [x], False)
    assert torch.autograd.backward in watching.seen
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]

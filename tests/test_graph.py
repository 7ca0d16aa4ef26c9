"""What the graph of the losses tells, and what hides it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._functorch.config as config
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtl_ops.gradients.graph import allow_repeated_backward, leaves, leaves_of_each, root


def parameter(value: float = 1.0) -> Tensor:
    return torch.full((2,), value, requires_grad=True)


class TestRoot:
    def test_of_a_loss_is_the_loss(self) -> None:
        for loss in (parameter().sum(), parameter()[0], torch.tensor(1.0, requires_grad=True)):
            assert root(loss) is loss

    def test_of_a_constant_is_none(self) -> None:
        assert root(torch.tensor(1.0)) is None

    def test_of_a_stacked_loss_is_the_loss_that_was_stacked(self) -> None:
        first, second = parameter(), parameter()
        stacked = torch.stack([first.sum(), (first * second).sum()]).unbind()
        start = root(stacked[0])
        assert isinstance(start, GradientEdge)
        grads = torch.autograd.grad(start, [first, second], allow_unused=True, retain_graph=True)
        assert grads[0].tolist() == [1.0, 1.0]
        assert grads[1] is None
        # where autograd alone finds zeros
        direct = torch.autograd.grad(stacked[0], [first, second], allow_unused=True)
        assert direct[1].tolist() == [0.0, 0.0]

    def test_of_a_stacked_parameter(self) -> None:
        scalar, other = torch.tensor(3.0, requires_grad=True), parameter()
        start = root(torch.stack([scalar, other.sum()]).unbind()[0])
        assert torch.autograd.grad(start, [scalar])[0] == 1.0

    def test_of_a_stacked_constant_is_none(self) -> None:
        stacked = torch.stack([parameter().sum(), torch.tensor(1.0)]).unbind()
        assert root(stacked[0]) is not None
        assert root(stacked[1]) is None

    def test_of_other_tensors_of_losses_is_the_element(self) -> None:
        weight = torch.ones(3, 2, requires_grad=True)
        for losses in (weight.mean(dim=1), 2 * torch.stack([weight.sum(), weight.prod()])):
            element = losses.unbind()[0]
            assert root(element) is element


class TestLeaves:
    def test_all_that_are_reached(self) -> None:
        first, second, third = parameter(), parameter(), parameter()
        losses = [(first * second).sum(), None, third.detach().sum()]
        assert leaves(losses) == {id(first), id(second)}
        assert leaves([]) == set()

    def test_not_past_a_stop(self) -> None:
        first, second = parameter(), parameter()
        features = first * 2
        loss = (features * second).sum() + first.sum() * 0
        assert leaves([loss], [features]) == {id(first), id(second)}
        assert leaves([(features * second).sum()], [features]) == {id(second)}
        assert leaves([features], [features]) == set()

    def test_of_stacked_losses_one_by_one(self) -> None:
        first, second = parameter(), parameter()
        one, two = torch.stack([first.sum(), second.sum()]).unbind()
        assert leaves([one]) == {id(first)}
        assert leaves([two]) == {id(second)}

    def test_a_loss_that_is_a_leaf(self) -> None:
        scalar = torch.tensor(1.0, requires_grad=True)
        assert leaves([scalar]) == {id(scalar)}


class TestRepeatedBackward:
    @pytest.fixture(autouse=True)
    def setting(self) -> Iterator[None]:
        before = config.donated_buffer
        config.donated_buffer = True
        yield
        config.donated_buffer = before

    def compiler(self, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
        monkeypatch.setitem(sys.modules, "torch._dynamo.convert_frame", module)

    @pytest.mark.parametrize("module", [None, SimpleNamespace(FRAME_COUNTER=0)])
    def test_is_allowed_before_anything_is_compiled(
        self, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.compiler(monkeypatch, module)
        allow_repeated_backward()
        assert not config.donated_buffer

    @pytest.mark.parametrize("module", [SimpleNamespace(FRAME_COUNTER=1), SimpleNamespace()])
    def test_is_left_alone_afterwards_and_where_it_cannot_be_told(
        self, module: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.compiler(monkeypatch, module)
        allow_repeated_backward()
        assert config.donated_buffer

    def test_torch_still_counts_what_it_compiles(self) -> None:
        import torch._dynamo.convert_frame

        assert isinstance(torch._dynamo.convert_frame.FRAME_COUNTER, int)


def test_leaves_of_each_are_those_of_each_by_itself() -> None:
    trunk, own, tied, lone = (torch.ones(2, requires_grad=True) for _ in range(4))
    features = (trunk * tied).sin()
    losses = [
        features.sum(),
        None,
        (features * own + tied).sum(),
        *torch.stack([features.cos().sum(), own.sum()]),
        lone[0],
        torch.ones((), requires_grad=True),
        torch.ones(()),
        features.sum(),
    ]
    expected = [set() if loss is None else leaves([loss]) for loss in losses]
    assert leaves_of_each(losses) == expected
    assert expected[0] == expected[-1] == {id(trunk), id(tied)}
    assert expected[4] == {id(own)}
    assert leaves_of_each([]) == []

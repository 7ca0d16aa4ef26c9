"""Which leaves a loss depends on, by what part of each tensor it uses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mtl_ops.gradients import movement, reach, scattering
from mtl_ops.gradients.parts import WHOLE, intersect, of_indices, reshape, union, without
from mtl_ops.gradients.reach import (
    Trace,
    leaves_of_each,
    narrowed,
    root,
    roots_of_stack,
    surely_differentiable,
)


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

    def test_of_an_assigned_loss_is_the_loss_that_was_assigned(self) -> None:
        first, second = parameter(), parameter()
        losses = torch.zeros(3)
        losses[0], losses[2] = first.sum(), (first * second).sum()
        assert leaves_of_each(list(losses[[0, 2]].unbind())) == [
            {id(first)},
            {id(first), id(second)},
        ]
        start = root(losses[2])
        assert isinstance(start, GradientEdge)
        assert torch.autograd.grad(start, [second])[0].tolist() == [1.0, 1.0]
        assert root(losses[1]) is None

    def test_of_a_loss_in_another_dtype_is_the_element(self) -> None:
        losses = torch.zeros(2, dtype=torch.float64)
        losses[0] = parameter().sum()
        element = losses[0]
        assert root(element) is element

    def test_has_the_shape_of_the_loss(self) -> None:
        first, second = parameter(), parameter()
        joined = torch.cat([first.sum(0, keepdim=True), second.sum(0, keepdim=True)])
        assert isinstance(root(joined[1:]), GradientEdge)
        assert torch.autograd.grad(root(joined[1:]), [second], [torch.ones(1)])[0].tolist() == [
            1,
            1,
        ]
        assert isinstance(root(joined[1]), Tensor)


# ---- every rule against the gradients that autograd computes ------------------------------------

SHAPE = (2, 3, 4)
Operation = Callable[[Tensor], Tensor]


def assign(data: Tensor, write: Callable[[Tensor, Tensor], None], *shape: int) -> Tensor:
    """What is left of some data once something is written over a part of it, which is of other numbers."""
    copy = data.clone()
    write(copy, data.detach().new_full(shape, 0.5))
    return copy


def put(index: Operation) -> Operation:
    def operation(data: Tensor) -> Tensor:
        joined = torch.zeros(4, 3, 2)
        index(joined).copy_(index(data.permute(2, 1, 0)))
        return joined

    return operation


def rows(*numbers: int) -> Tensor:
    """To scatter along the middle of three dimensions."""
    return torch.tensor(numbers)[:, None].expand(2, len(numbers), 4)


#: Operations of a tensor of 2 x 3 x 4 elements: what follows is exact for all of them.
EXACT: dict[str, Operation] = {
    "select": lambda x: x[1],
    "select from the end": lambda x: x[..., -2],
    "slice": lambda x: x[:, 1:],
    "slice with a step": lambda x: x[..., 1::2],
    "slice from the end": lambda x: x[..., -3:-1],
    "slice of all": lambda x: x[:, :][:, 0:99],
    "narrow": lambda x: x.narrow(-1, 1, 2),
    "unbind": lambda x: x.unbind(1)[2],
    "two of unbind": lambda x: x.unbind(-1)[0] + x.unbind(-1)[3],
    "several of one unbind": lambda x: (lambda y: y[0] * y[3])(x.unbind(-1)),
    "split": lambda x: x.split(3, -1)[1],
    "several of one split": lambda x: (lambda y: y[0][..., 0] * y[1][..., 0])(x.split(3, -1)),
    "split with sizes": lambda x: x.split([1, 2, 1], -1)[1],
    "chunk": lambda x: x.chunk(2, -1)[0],
    "tensor_split": lambda x: x.tensor_split(3, -1)[1],
    "index": lambda x: x[:, torch.tensor([2, 0])],
    "index of a part": lambda x: x[..., torch.tensor([3, 1, 3])][..., 1],
    "negative index": lambda x: x[:, torch.tensor([-1])],
    "index by a matrix": lambda x: x[:, torch.tensor([[0, 2], [2, 0]])],
    "index by a mask": lambda x: x[:, torch.tensor([True, False, True])],
    "index_select": lambda x: x.index_select(-1, torch.tensor([0, 2])),
    "view": lambda x: x.view(6, 4)[:, 1],
    "view of a part": lambda x: x.reshape(24)[1:3],
    "view that splits": lambda x: x.view(2, 3, 2, 2)[:, 1, 0],
    "flatten": lambda x: x.flatten(1)[:, 4:6],
    "unflatten": lambda x: x.unflatten(-1, (2, 2))[..., 1, 0],
    "squeeze": lambda x: x[:, :1].squeeze(1)[0],
    "squeeze of all": lambda x: x[:1, :1].squeeze()[2:],
    "squeeze of two": lambda x: x[:1, :1].squeeze((0, 1))[2:],
    "unsqueeze": lambda x: x.unsqueeze(-2)[:, 0, 0],
    "transpose": lambda x: x.transpose(0, -1)[2],
    "t": lambda x: x[0].t()[1:, 2],
    "permute": lambda x: x.permute(2, 0, -2)[1:3, 1],
    "flip": lambda x: x.flip(0, -1)[1:2, :2],
    "movedim": lambda x: x.movedim(0, -1)[..., 0],
    "expand": lambda x: x[:1].expand(5, 3, 4)[:, 2],
    "broadcast": lambda x: (x[:, :1] * torch.ones(7, 1, 3, 1))[..., 0],
    "repeated by a view": lambda x: x.contiguous()[:, 1].unsqueeze(0).expand(3, 2, 4)[0],
    "mean over a dimension": lambda x: x.mean(0)[1],
    "sum over some": lambda x: x.sum((0, -1), keepdim=True)[:, 2],
    "softmax": lambda x: x.softmax(-1)[:, 1, :2],
    "log_softmax": lambda x: x.log_softmax(1)[..., 2],
    "cumsum": lambda x: x.cumsum(1)[0, -1],
    "sigmoid": lambda x: x.sigmoid()[0],
    "arithmetic": lambda x: (2 - x / 3 + x**2 - x.exp().log1p())[:, 0],
    "activations": lambda x: F.softplus(F.gelu(F.silu(x))).tanh()[1, 1],
    "clamp and where": lambda x: torch.where(x > 9, 0.0, x.clamp(-9, 9)).abs()[..., 3],
    "other dtype": lambda x: x.double().to(torch.bfloat16).float()[1],
    "binary cross entropy": lambda x: F.binary_cross_entropy(
        x.sigmoid(), torch.full(SHAPE, 0.3), reduction="none"
    )[0, 1],
    "with logits": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.full(SHAPE, 0.3), reduction="none"
    )[..., 1],
    "errors": lambda x: (
        F.mse_loss(x, torch.zeros(SHAPE), reduction="none")
        + F.smooth_l1_loss(x, torch.zeros(SHAPE), reduction="none")
        + F.huber_loss(x, torch.zeros(SHAPE), reduction="none")
        + F.l1_loss(x, torch.zeros(SHAPE), reduction="none")
    ).mean((0, 1))[2],
    "dropout": lambda x: F.dropout(x, 0.0)[1],
    "cat": lambda x: torch.cat([x[:, 0], x[:, 2], x[:, 1]], 1)[:, 5:8],
    "cat with a constant": lambda x: torch.cat([x, torch.ones(2, 3, 1), x], -1)[..., 3:5],
    "cat of what is empty": lambda x: torch.cat([torch.zeros(0, requires_grad=True), x[0]])[1],
    "stack": lambda x: torch.stack([x[0], x[1], 0 * x[0].detach()], 1)[:, 1],
    "hstack": lambda x: torch.hstack([x[0], x[1]])[:, 5],
    "assigned column": lambda x: assign(x, lambda a, b: a[..., 1].copy_(b), 2, 3)[..., :2],
    "assigned rows": lambda x: assign(x, lambda a, b: a[1:].copy_(b), 1, 3, 4),
    "assigned with a step": lambda x: assign(x, lambda a, b: a[..., ::2].copy_(b), 2, 3, 2),
    "assigned by a number": lambda x: assign(x, lambda a, _: a[:, 1].fill_(2.0)),
    "assigned zeros": lambda x: assign(x, lambda a, _: a[:, 1].zero_()),
    "assigned a smaller one": lambda x: assign(x, lambda a, b: a[:, 1].copy_(b), 4)[:, :2],
    "assigned as a whole": lambda x: assign(x, lambda a, b: a.copy_(b), *SHAPE) + x[0],
    "assigned by index": lambda x: assign(
        x, lambda a, b: a.index_put_((torch.tensor([1]),), b), 3, 4
    ),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1))[..., :3, 2:4],
    "pad that cuts": lambda x: F.pad(x, (-1, 2, 1, -2))[:, :2, :4],
    "pad of all": lambda x: F.pad(x, (1, 1)),
    "roll": lambda x: x.roll(1, -1)[..., :2],
    "roll of two": lambda x: x.roll((-1, 5), (0, 1))[0, 1:],
    "slice_scatter": lambda x: x.slice_scatter(0.5 * x[:, :2], 1, 1)[:, :2],
    "slice_scatter with a step": lambda x: torch.zeros(2, 3, 9).slice_scatter(x, -1, -8, 99, 2)[
        ..., 1:6
    ],
    "select_scatter": lambda x: x.select_scatter(x[:, 1], 1, -1)[:, 1:, 0],
    "select_scatter over all": lambda x: x[:, :1].select_scatter(x[:, 2], 1, 0),
    "scatter": lambda x: torch.zeros(2, 5, 4).scatter(1, rows(3, 0, 4), x)[:, 2:4, 1],
    "scatter of a part": lambda x: x.scatter(1, rows(2, 0)[:1, :, :3], torch.ones(1, 2, 3))[:1, :1],
    "scatter over all": lambda x: x[:, :2].scatter(1, rows(1, 0), x[:, 1:]),
    "scatter_add": lambda x: torch.zeros(2, 5, 4).scatter_add(1, rows(3, 0, 3), x)[:, 2:4, 1],
    "index_copy": lambda x: x[:, :2].index_copy(1, torch.tensor([1]), x[:, 2:])[..., 1:],
    "index_add": lambda x: torch.zeros(2, 3, 4).index_add(2, torch.tensor([3, 0, 3, 1]), x)[..., 3],
    "written": put(lambda y: y[1:3]),
    "written column": put(lambda y: y[:, 1]),
    "written, transposed": put(lambda y: y.transpose(0, 1)[:2]),
    "written with a step": put(lambda y: y[::2, :, 1:]),
    "written in place, then used": lambda x: put(lambda y: y[:2])(x)[0],
}

#: Of these more may be found than there is.
LARGER: dict[str, Operation] = {
    "gather": lambda x: x.gather(1, torch.zeros(2, 1, 4, dtype=torch.long)),
    "masked_select": lambda x: x.masked_select(torch.arange(4) == 1),
    "index by a mask of two": lambda x: x[torch.ones(2, 3, dtype=torch.bool)][1],
    "two indices": lambda x: x[torch.tensor([0, 1]), torch.tensor([1, 2])],
    "diagonal": lambda x: x.diagonal(dim1=0, dim2=1),
    "as_strided": lambda x: x.as_strided((2, 2), (4, 1)),
    "matrix product": lambda x: x @ torch.eye(4)[:, 1:2],
    "einsum": lambda x: torch.einsum("abc,c->ab", x, torch.eye(4)[2]),
    "a diagonal that was assigned": lambda x: assign(x, lambda a, b: a.diagonal().copy_(b), 4, 2),
    "changed in place": lambda x: assign(x, lambda a, b: a[..., 1].mul_(b), 2, 3)[..., 1],
    "changed in place elsewhere": lambda x: assign(x, lambda a, b: a[..., 1].mul_(b), 2, 3)[..., 0],
    "part of a view": lambda x: x.view(4, 6)[1:3, 2:4],
    "index_put that adds": lambda x: assign(
        x, lambda a, b: a.index_put_((torch.tensor([1]),), b, accumulate=True), 3, 4
    ),
    "view that joins and splits": lambda x: x.view(3, 8)[1],
    "parts of two that are joined": lambda x: torch.cat([x[:, 0], x[:, 1]], 1)[:, 3:5],
    "cat between constants": lambda x: torch.cat([torch.ones(2, 3, 1), x, torch.ones(2, 3, 2)], -1)[
        ..., 3:6
    ],
    "scatter by numbers that differ": lambda x: torch.zeros(2, 3, 4).scatter(
        1, torch.tensor([[[0, 1, 2, 0]], [[1, 1, 0, 0]]]), x[:, :1]
    )[:, 0],
    "scatter over numbers that differ": lambda x: x.scatter(
        1, torch.tensor([[[0, 1, 2, 0]], [[1, 1, 0, 0]]]), x[:, :1].detach()
    )[:, 0],
    "scatter_reduce": lambda x: x.scatter_reduce(1, rows(1), x[:, :1], "sum")[:, 1],
    "roll of all": lambda x: x.roll(5)[0, 0],
    "two parts": lambda x: x[0, :, 0].sum() * x[1, 1].sum(),
}


def elements(operation: Operation) -> tuple[list[Tensor], Tensor]:
    """24 leaves, and a loss that depends on some of them."""
    generator = torch.Generator().manual_seed(0)
    leaves = [value.clone().requires_grad_() for value in torch.rand(24, generator=generator) + 0.5]
    found = operation(torch.stack(leaves).view(SHAPE))
    return leaves, (found * (torch.rand(found.shape, generator=generator) + 0.5)).sum()


def truly_used(leaves: list[Tensor], loss: Tensor) -> set[int]:
    found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    return {id(x) for x, gradient in zip(leaves, found, strict=True) if gradient}


@pytest.mark.parametrize("name", EXACT)
def test_the_part_that_is_used_is_found(name: str) -> None:
    leaves, loss = elements(EXACT[name])
    (found,) = leaves_of_each([loss])
    expected = truly_used(leaves, loss)
    assert expected
    assert found & {id(leaf) for leaf in leaves} == expected


@pytest.mark.parametrize("name", LARGER)
def test_never_less_than_what_is_used_is_found(name: str) -> None:
    leaves, loss = elements(LARGER[name])
    (found,) = leaves_of_each([loss])
    assert found >= truly_used(leaves, loss)


@pytest.mark.parametrize("name", EXACT)
def test_what_a_node_does_not_tell_counts_as_used(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise AttributeError

    for module in (movement, scattering):
        monkeypatch.setattr(module, "shape_of", unknown)
        monkeypatch.setattr(module, "signed", unknown)
    leaves, loss = elements(EXACT[name])
    (found,) = leaves_of_each([loss])
    assert found >= truly_used(leaves, loss)


def test_a_freed_graph_tells_no_less() -> None:
    for operation in EXACT.values():
        leaves, loss = elements(operation)
        expected = truly_used(leaves, loss)
        loss.backward()
        (found,) = leaves_of_each([loss])
        assert found >= expected


def test_several_losses_at_once() -> None:
    operations = list(EXACT.values())
    leaves = [torch.tensor(0.5 + k / 24).requires_grad_() for k in range(24)]
    data = torch.stack(leaves).view(SHAPE)
    losses = [operation(data).square().sum() for operation in operations]
    together = leaves_of_each(losses)
    assert together == [leaves_of_each([loss])[0] for loss in losses]
    every = {id(leaf) for leaf in leaves}
    for loss, found in zip(losses, together, strict=True):
        assert found & every == truly_used(leaves, loss)


def test_nothing_is_narrowed_where_autograd_finds_no_more() -> None:
    weight, other = parameter(), parameter()
    features = torch.cat([weight, other]) * 2
    losses = [features.sum(), (features * features).sum(), features[:4].sum()]
    assert narrowed(losses) is None
    assert narrowed([*losses, features[:2].sum()])[3] == {id(weight)}
    assert Trace.of(losses).narrowed is False


# ---- parts --------------------------------------------------------------------------------------


def test_parts() -> None:
    left, right = (None, 0b011), (0b1, 0b110)
    assert union(left, right) == (None, 0b111)
    assert union(WHOLE, right) is WHOLE
    assert intersect(left, right) == (0b1, 0b010)
    assert intersect(WHOLE, right) == right
    assert intersect((0b01, None), (0b10, None)) is None
    assert without(left, (None, 0b001), (4, 3)) == (None, 0b010)
    assert without(left, left, (4, 3)) is None
    assert without(left, right, (4, 3)) == left  # what is left is no product
    assert of_indices([0, 3, 3]) == 0b1001


def test_reshaped_parts() -> None:
    assert reshape((None, 0b10), (3, 2), (6,)) == (0b101010,)
    assert reshape((0b100, None), (3, 2), (6,)) == (0b110000,)
    assert reshape((0b110000,), (6,), (3, 2)) == (0b100, None)
    assert reshape((0b1, None, 0b1), (5, 1, 2), (1, 5, 2, 1)) == (None, 0b1, 0b1, None)
    assert reshape((None, 0b1), (2**17, 2), (2**18,)) is WHOLE  # too many to count
    assert reshape((0b1, None), (0, 2), (2, 0)) is WHOLE


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
    expected = [leaves_of_each([loss])[0] for loss in losses]
    assert leaves_of_each(losses) == expected
    assert expected[1] == expected[7] == set()
    assert expected[0] == expected[-1] == {id(trunk), id(tied)}
    assert expected[4] == {id(own)}
    assert leaves_of_each([]) == []


def test_losses_that_surely_require_a_gradient_have_a_root() -> None:
    x = torch.ones(3, requires_grad=True)
    sums, constant = [(k * x).sum() for k in range(3)], torch.ones(())
    sure = [torch.stack(sums), x.square(), x, torch.stack([s.exp() for s in sums])]
    looked_at = [torch.stack([sums[0], constant]), torch.stack(sums)[:2], torch.cat([x, x])]
    without = [torch.stack([constant, sums[1].detach()]), torch.ones(3)]
    for losses in sure:
        assert surely_differentiable(losses)
        assert all(root(loss) is not None for loss in losses.unbind())
    assert not any(map(surely_differentiable, looked_at + without))
    assert root(looked_at[0][1]) is None


def test_roots_of_a_stack_are_those_of_its_elements() -> None:
    x = torch.ones(3, requires_grad=True)
    sums = [(k * x).sum() for k in range(3)]
    for losses in (torch.stack(sums), torch.stack([sums[2], sums[0], sums[2]])):
        assert roots_of_stack(losses) == [root(loss) for loss in losses.unbind()]
    others = [x.square(), torch.stack(sums)[:2], torch.stack([sums[0], torch.ones(())])]
    others.append(torch.stack([sums[0], sums[1].double()]))  # its root has to be of its own dtype
    others.append(torch.stack([sums[0], x[0]]))
    assert all(roots_of_stack(losses) is None for losses in others)


def test_the_kind_of_a_node_goes_by_its_name() -> None:
    """Also of functions of a user's, which may have the name of one of torch's, and are not remembered."""

    class Cat(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * 2

    x = parameter()
    nodes = [torch.cat([x, x]).grad_fn, x.exp().grad_fn, Cat.apply(x).grad_fn]
    for node in nodes * 2:
        expected = node.name() in movement.NARROWING, node.name() in movement.DROPPING
        assert (reach._KINDS.get(type(node)) or reach._kind_of(node)) == expected
    assert [type(node) in reach._KINDS for node in nodes] == [True, True, False]

"""What each version of PyTorch names its nodes, and keeps with them: read here as the product does.

A version that names or keeps something in another way fails here, in words; a user's model then goes by rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_ops.gradients.factored.saved import Unreadable, is_unpacked, number, output_shape, saved
from mtl_ops.gradients.factored.table import PRODUCTS, VIEWS

#: torch 2.10 to 2.14.
VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


#: Operations, and what is read of their nodes, with the shapes of tensors.
NODES: dict[str, tuple[Callable[[], Tensor], dict[str, object]]] = {
    "MmBackward0": (lambda: leaf(2, 3) @ leaf(3, 4), {"self": (2, 3), "mat2": (3, 4)}),
    "AddmmBackward0": (
        lambda: functional.linear(leaf(2, 3), leaf(4, 3), leaf(4)),
        {"mat1": (2, 3), "mat2": (3, 4), "alpha": 1},
    ),
    "BmmBackward0": (
        lambda: torch.bmm(leaf(5, 2, 3), leaf(5, 3, 4)),
        {"self": (5, 2, 3), "mat2": (5, 3, 4)},
    ),
    "BaddbmmBackward0": (
        lambda: torch.baddbmm(leaf(5, 2, 4), leaf(5, 2, 3), leaf(5, 3, 4)),
        {"batch1": (5, 2, 3), "batch2": (5, 3, 4), "alpha": 1},
    ),
    "ConvolutionBackward0": (
        lambda: functional.conv2d(leaf(1, 3, 5, 5), leaf(2, 3, 3, 3), stride=2, padding=1),
        {
            "input": (1, 3, 5, 5),
            "stride": [2, 2],
            "padding": [1, 1],
            "dilation": [1, 1],
            "groups": 1,
            "transposed": False,
        },
    ),
    "EmbeddingBackward0": (
        lambda: functional.embedding(torch.tensor([1, 2]), leaf(5, 3), padding_idx=4),
        {"indices": (2,), "padding_idx": 4, "scale_grad_by_freq": False},
    ),
    "EmbeddingBagBackward0": (
        lambda: functional.embedding_bag(torch.tensor([[1, 2]]), leaf(5, 3), mode="mean"),
        {
            "indices": (2,),
            "offsets": (1,),
            "mode": 1,
            "scale_grad_by_freq": False,
            "per_sample_weights": None,
        },
    ),
}

#: Views of a parameter, as operations make them.
VIEWED: dict[str, Callable[[], Tensor]] = {
    "AliasBackward0": lambda: torch.ops.aten.alias(leaf(2, 3)),
    "CloneBackward0": lambda: leaf(2, 3).clone(),
    "PermuteBackward0": lambda: leaf(2, 3).permute(1, 0),
    "ReshapeAliasBackward0": lambda: torch.ops.aten._reshape_alias(leaf(2, 3), [6], [1]),
    "TBackward0": lambda: leaf(2, 3).t(),
    "ToCopyBackward0": lambda: leaf(2, 3).to(torch.bfloat16),
    "TransposeBackward0": lambda: leaf(2, 3).transpose(0, 1),
    "UnsafeViewBackward0": lambda: torch.ops.aten._unsafe_view(leaf(2, 3), [6]),
    "UnsqueezeBackward0": lambda: leaf(2, 3).unsqueeze(0),
    "ViewBackward0": lambda: leaf(2, 3).view(6),
}


def test_every_node_of_the_table_is_here() -> None:
    assert set(NODES) == set(PRODUCTS)
    assert set(VIEWED) == set(VIEWS)
    assert VERSION >= (2, 10)


@pytest.mark.parametrize("name", NODES)
def test_a_product_keeps_what_is_read(name: str) -> None:
    operation, kept = NODES[name]
    out = operation()
    node = out.grad_fn
    assert node is not None
    assert node.name() == name
    assert output_shape(node) == out.shape
    for key, value in kept.items():
        found = saved(node, key)
        if isinstance(found, Tensor):
            assert found.shape == value
            assert not is_unpacked(node, key)
        else:
            assert (list(found) if isinstance(value, list) else found) == value
    assert number(out.grad_fn, "padding_idx") == 4 if name == "EmbeddingBackward0" else True


@pytest.mark.parametrize("name", VIEWED)
def test_a_view_has_its_name_and_can_be_called(name: str) -> None:
    out = VIEWED[name]()
    node = out.grad_fn
    assert node is not None
    assert node.name() == name
    if name != "ToCopyBackward0":  # of a tensor without elements the others make one
        assert node(torch.empty(out.shape, device="meta")).shape == (2, 3)


def test_padding_that_is_not_there_is_negative() -> None:
    out = functional.embedding(torch.tensor([1, 2]), leaf(5, 3))
    assert out.grad_fn is not None
    assert number(out.grad_fn, "padding_idx") == -1


def test_what_a_checkpoint_would_compute_anew_is_not_read() -> None:
    layer = nn.Linear(3, 3)
    with torch.autograd.graph.save_on_cpu():
        out = layer(torch.randn(2, 3))
    assert out.grad_fn is not None
    assert is_unpacked(out.grad_fn, "mat1")
    assert not is_unpacked(layer(torch.randn(2, 3)).grad_fn, "mat1")


def test_a_name_that_is_not_there_is_unreadable() -> None:
    out = torch.tanh(leaf(2, 3))
    assert out.grad_fn is not None
    with pytest.raises(Unreadable, match="TanhBackward0 has no mat1"):
        saved(out.grad_fn, "mat1")
    assert is_unpacked(out.grad_fn, "mat1")


def test_what_was_freed_says_so() -> None:
    out = leaf(2, 3) @ leaf(3, 4)
    out.sum().backward()
    assert out.grad_fn is not None
    with pytest.raises(RuntimeError, match="second time"):
        saved(out.grad_fn, "self")

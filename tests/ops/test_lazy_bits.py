"""Tensors whose memory does not hold their elements: a lazy negation, zeros without memory, other layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import SAMPLES
from torch import Tensor

import mtl_ops
from mtl_ops import ops

GRADIENT_OPERATORS = sorted(name for name in SAMPLES if name.startswith(("gram", "merge_")))


def negated(tensor: Tensor) -> Tensor:
    """The same values with the negative bit, dense."""
    lazy = torch._neg_view(-tensor)
    assert lazy.is_neg()
    assert torch.equal(lazy, tensor)
    return lazy


def call(name: str, args: tuple[Any, ...]) -> tuple[Any, list[Tensor]]:
    result = getattr(torch.ops.mtl_ops, name)(*args)
    return result, [] if name.startswith("gram") else args[0]


def with_lazy(name: str, args: tuple[Any, ...], make: Callable[[Tensor], Tensor]) -> Any:
    """The arguments with all tensors replaced."""
    return tuple(
        make(arg)
        if isinstance(arg, Tensor)
        else [make(value) if isinstance(value, Tensor) else value for value in arg]
        if isinstance(arg, list)
        else arg
        for arg in args
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", GRADIENT_OPERATORS)
def test_a_negative_bit_changes_nothing(name: str, dtype: torch.dtype) -> None:
    expected = call(name, SAMPLES[name](dtype))
    found = call(name, with_lazy(name, SAMPLES[name](dtype), negated))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - set(GRADIENT_OPERATORS)))
def test_a_negative_bit_of_matrices_and_states(name: str) -> None:
    plain = SAMPLES[name](torch.float32)
    lazy = with_lazy(name, SAMPLES[name](torch.float32), negated)
    expected, found = (getattr(torch.ops.mtl_ops, name)(*args) for args in (plain, lazy))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for one, other in zip(lazy, plain, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0)  # states moved alike


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_merged_is_added_to_a_lazy_output(count: int) -> None:
    rows = [torch.full((count,), 2.0), negated(torch.full((count,), 3.0))]
    out = negated(torch.full((count,), 10.0))
    ops.merge_([out], rows, torch.tensor([[1.0, 2.0]], dtype=torch.float64), accumulate=True)
    assert out.tolist() == [18.0] * count


def test_zeros_without_memory_are_zeros() -> None:
    zeros = torch._efficientzerotensor((3,))
    assert ops.gram([zeros, torch.ones(3)], 2).tolist() == [[[0.0, 0.0], [0.0, 3.0]]]
    out = torch.ones(3)
    ops.merge_median_([out], [zeros, torch.ones(3), torch.full((3,), 2.0)])
    assert out.tolist() == [1.0] * 3
    ops.merge_median_([out], [zeros])
    assert out.tolist() == [0.0] * 3
    with pytest.raises(RuntimeError, match="should write to tensors that have memory"):
        ops.merge_median_([torch.ones(2), torch._efficientzerotensor((3,))], [torch.ones(2), zeros])


class Conjugated(torch.nn.Module):
    """Real parameters that are read as the parts of conjugated complex numbers; scalars and more."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.real = torch.nn.Parameter(torch.randn(shape, generator=generator))
        self.imaginary = torch.nn.Parameter(torch.randn(shape, generator=generator))

    def losses(self) -> list[Tensor]:
        z = torch.complex(self.real, self.imaginary).conj()
        return [z.imag.square().sum() + z.real.sum(), 3 * z.imag.sum(), (z * z).imag.sum()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": "stream"},
        {"granularity": "tensor"},
        {"batched": True},
        {"max_norm": 1e6, "max_task_norm": 1e6},
        {"grad_dtype": torch.float64},
    ],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_through_conjugated_numbers(
    shape: tuple[int, ...], accumulate: bool, options: dict[str, Any]
) -> None:
    plain, model = Conjugated(shape), Conjugated(shape)
    optimizer = mtl_ops.MultiTaskOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), "sum", **options
    )
    if accumulate and "memory" in options:
        pytest.skip("accumulating keeps what streaming frees")
    sum(plain.losses()).backward()  # type: ignore[union-attr]
    optimizer.backward(model.losses())
    if accumulate:
        sum(plain.losses()).backward()  # type: ignore[union-attr]
        optimizer.zero_grad()
        optimizer.accumulate(model.losses())
        optimizer.backward(model.losses())
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_merge_of_a_lazy_matrix() -> None:
    matrix = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    torch.testing.assert_close(
        mtl_ops.merge(negated(matrix), "upgrad"), mtl_ops.merge(matrix, "upgrad")
    )


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda: torch.ones(3).to_sparse()),
        ("sparse", lambda: torch.ones(3, 3).to_sparse_csr()),
        ("mkldnn", lambda: torch.ones(3, 3).to_mkldnn()),
        ("nested", lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_layouts_are_refused(kind: str, make: Callable[[], Tensor]) -> None:
    if kind == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("needs mkldnn")
    with pytest.raises(RuntimeError, match=f"gram should be given dense tensors. Found a {kind}"):
        ops.gram([make(), make()], 2)

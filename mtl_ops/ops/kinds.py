"""Kinds of tensors whose memory does not hold their elements: resolved, or refused with a sentence.

The kernels read memory. PyTorch resolves a lazy negation before an operator is called, but not in the
lists of optional tensors that gradients come in; and it says in its own words what no kernel takes. Both are
kernels of ours for the dispatch keys of these kinds of tensors, so a call without one pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["register_kinds", "tensors_in"]

#: Dispatch keys of tensors whose elements follow from other memory than their own.
LAZY = ("Negative", "ZeroTensor")

#: Dispatch keys of layouts that no kernel takes, and what they are called.
LAYOUTS = {
    "SparseCPU": "sparse",
    "SparseCUDA": "sparse",
    "SparseCsrCPU": "sparse",
    "SparseCsrCUDA": "sparse",
    "NestedTensorCPU": "nested",
    "NestedTensorCUDA": "nested",
    "AutogradNestedTensor": "nested",
    "MkldnnCPU": "mkldnn",
    "QuantizedCPU": "quantized",
    "QuantizedCUDA": "quantized",
}

#: Within a transform of ``torch.func`` every call passes through the first of these.
TRANSFORMS = ("FuncTorchDynamicLayerFrontMode", "FuncTorchDynamicLayerBackMode")

_library: Any = torch.library.Library("mtl_ops", "IMPL")  # type: ignore[no-untyped-call]


def register_kinds(name: str) -> None:
    """Gives an operator its kernels for these kinds of tensors."""
    operator = getattr(torch.ops.mtl_ops, name).default
    for key in LAZY:
        _library.impl(name, _resolving(operator), key)
    for key, layout in LAYOUTS.items():
        _library.impl(
            name, _refusing(f"{name} should be given dense tensors. Found a {layout} one."), key
        )
    _library.impl(name, _refusing_transforms(name, operator), TRANSFORMS[0])


def tensors_in(args: tuple[Any, ...]) -> Iterator[Tensor]:
    """All tensors of a call."""
    for arg in args:
        for value in arg if isinstance(arg, (list, tuple)) else (arg,):
            if isinstance(value, Tensor):
                yield value


def _resolving(operator: Any) -> Callable[..., Any]:
    """Calls the operator on tensors that hold their elements, and writes back what it changed."""
    written = [
        place
        for place, argument in enumerate(operator._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]

    def kernel(*args: Any) -> Any:
        for target in tensors_in(tuple(args[place] for place in written)):
            if target._is_zerotensor():
                raise RuntimeError(
                    f"mtl_ops.{operator._schema.name.split('::')[1]} should write to tensors that have memory. "
                    "Found one of zeros without."
                )
        resolved = tuple(_resolved(arg) for arg in args)
        result = operator(*resolved)
        for place in written:
            for to, made in zip(
                tensors_in((args[place],)), tensors_in((resolved[place],)), strict=True
            ):
                if to is not made:
                    to.copy_(made)
        return result

    return kernel


def _resolved(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_resolved(item) for item in value]
    if not isinstance(value, Tensor):
        return value
    return value.clone() if value._is_zerotensor() else value.resolve_neg()


def _refusing(sentence: str) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        raise RuntimeError(f"mtl_ops.{sentence}")

    return kernel


def _refusing_transforms(name: str, operator: Any) -> Callable[..., Any]:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, TRANSFORMS[0])).add(
        getattr(torch._C.DispatchKey, TRANSFORMS[1])
    )

    def kernel(*args: Any) -> Any:
        if any(map(wrapped, tensors_in(args))):
            raise RuntimeError(
                f"mtl_ops.{name} should be given tensors outside of torch.func's transforms (grad, vmap, jvp, "
                "functionalize): it is neither differentiated nor batched. Found one within."
            )
        with torch._C._ExcludeDispatchKeyGuard(keys):  # of constants it is what it is outside
            return operator(*args)

    return kernel

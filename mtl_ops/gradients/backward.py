"""One backward, by autograd's engine.

``torch.autograd.grad`` and ``torch.autograd.backward`` compare shapes symbolically and look for subclasses of tensors
before they call the engine, which takes as long as a dozen small nodes of a graph. The engine is called as they call
it, and checks shapes by itself; what is no plain tensor, or is watched by a mode, goes by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

__all__ = ["accumulate", "derive"]

# The one private name: what `torch.autograd` itself calls.
_run: Any = getattr(torch.autograd.graph, "_engine_run_backward", None)


def derive(
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    factors: Sequence[Tensor | None],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """The gradient of ``Σ factor · output`` by each input, as ``torch.autograd.grad``.

    Args:
        outputs: Tensors or edges of a graph.
        inputs: Tensors or edges of a graph.
        factors: Of the outputs, in their shapes and dtypes; ``None`` for 1, of outputs of one element.
        retain_graph: Keeps the graph for another backward.

    Returns:
        ``None`` where no output reaches an input.
    """
    given = _given(outputs, inputs, factors)
    if given is None:
        return torch.autograd.grad(
            outputs, inputs, factors, retain_graph=retain_graph, allow_unused=True
        )
    found: Sequence[Tensor | None] = _run(
        tuple(outputs), given, retain_graph, False, tuple(inputs), True, accumulate_grad=False
    )
    return found


def accumulate(
    outputs: Sequence[Any],
    factors: Sequence[Tensor],
    inputs: Sequence[Tensor],
    retain_graph: bool,
) -> None:
    """Adds the gradient of ``Σ factor · output`` to the inputs' ``.grad``, as ``torch.autograd.backward``.

    Args:
        outputs: Tensors that require a gradient, or edges of a graph.
        factors: Of the outputs, in their shapes and dtypes.
        inputs: Tensors, at least one.
        retain_graph: Keeps the graph for another backward.
    """
    given = _given(outputs, inputs, factors)
    if given is None:
        torch.autograd.backward(outputs, factors, retain_graph=retain_graph, inputs=list(inputs))
    else:
        _run(tuple(outputs), given, retain_graph, False, tuple(inputs), True, accumulate_grad=True)


def _given(
    outputs: Sequence[Any], inputs: Sequence[Any], factors: Sequence[Tensor | None]
) -> tuple[Tensor, ...] | None:
    """The factor of each output; ``None`` if ``torch.autograd`` should look at them."""
    if _run is None or not inputs or has_torch_function((*outputs, *inputs)):
        return None
    given = []
    for output, factor in zip(outputs, factors, strict=True):
        one = _one(output) if factor is None else factor
        if one is None:
            return None
        given.append(one)
    return tuple(given)


def _one(output: Any) -> Tensor | None:
    """The factor 1 of an output that is a scalar; ``None`` for any other."""
    if isinstance(output, Tensor):
        scalar, like = not output.dim(), output
    else:
        like = output.node._input_metadata[output.output_nr]
        scalar = not (like.is_nested_tensor or like.shape)
    return torch.ones((), dtype=like.dtype, device=like.device) if scalar else None

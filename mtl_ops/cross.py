"""Inner products of the gradients of two sets of losses."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from . import ops
from .gradients.checks import check_plain
from .gradients.differentiate import differentiate
from .gradients.tasks import Losses, read_losses

__all__ = ["cross_gram"]


def cross_gram(
    first: Losses,
    second: Losses,
    params: Iterable[Tensor],
    second_params: Iterable[Tensor] | None = None,
    *,
    retain_graph: bool = False,
) -> Tensor:
    """Inner products of the gradients of two sets of losses, ``X_ij = g_i · h_j``.

    Some methods compare the gradients of two batches (``sdmgrad``, ``modo``), or those of training
    losses with those of validation losses one step further on (``auto_lambda``, ``moml``): hand X in
    as ``optimizer.backward(losses, cross_gram=X)``. No ``.grad`` is touched.

    Args:
        first: T losses, as of :func:`mtl_ops.backward`.
        second: V losses.
        params: The parameters that the first losses are differentiated by: for methods, those that
            the tasks share.
        second_params: The parameters that take their places for the second losses, of the same
            shapes: those of a copy of the model that has taken a step. ``None`` for the same ones.
        retain_graph: Keeps the graph of the first losses for another backward.

    Returns:
        ``(T, V)`` float64; 0 for a loss that is ``None``.

    Raises:
        TypeError: If the losses are not tensors, or a parameter is a DTensor.
        ValueError: If the losses are not scalars that require a gradient, none reaches a parameter, or
            there are not as many ``second_params`` as ``params``.
        RuntimeError: If the graph of a loss was freed.

    Example:
        >>> import torch, mtl_ops
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> mtl_ops.cross_gram([x.sum(), x[0]], [x.prod()], [x])
        tensor([[3.],
                [2.]], dtype=torch.float64)
    """
    left, right = read_losses(first), read_losses(second)
    places = list(params)
    others = places if second_params is None else list(second_params)
    if len(others) != len(places):
        raise ValueError(
            f"Parameter `second_params` should hold {len(places)} tensors, one for each of `params`. "
            f"Found {len(others)}."
        )
    check_plain([*places, *others])
    count = len(left.losses)
    rows = differentiate(left, places, retain_graph) + differentiate(right, others)
    gram = ops.gram(rows, count + len(right.losses))
    return gram[0, :count, count:].clone()

"""Sparse gradients, as of ``nn.Embedding(sparse=True)``: merged over the indices that any task has.

Where all tasks' gradients of a parameter are sparse, its rows of J are their values at the union U of the tasks'
indices, ``(|U|, ...)``: what is outside of it is 0 in every task, so in G and in the merged gradient it counts for
nothing. The merged gradient is sparse again, with the indices U, as ``SparseAdam`` wants it. To find U waits for the
device.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.capture import refuse_sparse

__all__ = ["StandIn", "add_to_grad", "elements", "filled_in", "stand_ins", "summed"]


@dataclass(frozen=True)
class StandIn:
    """What is merged into instead of a parameter's ``.grad``.

    Attributes:
        param: The parameter.
        tensor: Of the shape and dtype of what is merged; its ``.grad`` takes that.
        indices: ``(sparse dims, |U|)`` int64, where in the parameter that belongs; ``None`` if it is whole.
    """

    param: Tensor
    tensor: Tensor
    indices: Tensor | None = None

    def land(self) -> None:
        """Adds what was merged, if anything was, to the parameter's ``.grad``."""
        merged = self.tensor.grad
        if merged is None:
            return
        if self.indices is not None:
            shape = self.param.shape
            merged = torch.sparse_coo_tensor(
                self.indices, merged, shape, check_invariants=False, is_coalesced=True
            )
        add_to_grad(self.param, merged)


def stand_ins(rows: list[Tensor | None], params: Sequence[Tensor]) -> dict[int, StandIn]:
    """Stand-ins, by place, of the parameters whose gradient or ``.grad`` no kernel reads as it is.

    Args:
        rows: ``T × P`` gradients, row-major; the sparse ones are replaced by dense ones.
        params: P parameters.
    """
    count = len(params)
    found: dict[int, StandIn] = {}
    for p in {place % count for place, row in enumerate(rows) if row is not None and _odd(row)}:
        column = [row for row in rows[p::count] if row is not None]
        indices, dense = _union(column)
        taken = iter(dense)
        rows[p::count] = [None if row is None else next(taken) for row in rows[p::count]]
        if indices is not None:
            nothing = torch.empty((), dtype=params[p].dtype, device=params[p].device)
            found[p] = StandIn(params[p], nothing.expand(dense[0].shape), indices)
    for p, param in enumerate(params):
        grad = param.grad
        if grad is not None and p not in found and (_odd(grad) or _overlaps(grad)):
            found[p] = StandIn(param, torch.empty_like(param, requires_grad=False))
    return found


def add_to_grad(param: Tensor, gradient: Tensor) -> None:
    """Adds a gradient, dense or sparse, to a ``.grad`` that may be either, as autograd does."""
    grad = param.grad
    if grad is None:
        param.grad = gradient.to(param.dtype)
    elif not _odd(grad) and not _overlaps(grad):
        grad.add_(gradient)
    else:
        param.grad = summed(grad, gradient.to(param.dtype))


def summed(left: Tensor, right: Tensor) -> Tensor:
    """The sum of two gradients, sparse only if both are."""
    if left.layout == right.layout == torch.sparse_coo:
        if left.sparse_dim() == right.sparse_dim():
            refuse_sparse()
            return (left + right).coalesce()
        left = left.to_dense()
    return (
        right + left if _odd(left) else left + right
    )  # torch adds sparse to dense, not the reverse


def elements(gradient: Tensor) -> Tensor:
    """All elements of a gradient, but those that are 0 for being nowhere."""
    if not _odd(gradient):
        return gradient
    refuse_sparse()
    return gradient.coalesce().values()


def filled_in(row: Tensor) -> Tensor:
    """A sparse gradient as a dense one, with a warning: for steps that keep none."""
    warnings.warn(
        "Sparse gradients stay sparse only in one process, without `memory`, `grad_dtype`, factored `gradients`, and "
        "methods that remember gradients. "
        f"Here each task's gradient of a parameter becomes a dense tensor of shape {tuple(row.shape)}.",
        stacklevel=2,
    )
    return row.to_dense()


def _odd(tensor: Tensor) -> bool:
    return tensor.layout != torch.strided


def _overlaps(tensor: Tensor) -> bool:
    """Whether it is expanded: several elements in one place of memory."""
    return not tensor.is_contiguous() and torch._debug_has_internal_overlap(tensor) == 1


def _union(column: Sequence[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
    """The union of the gradients' indices, and the values of each there.

    With a dense gradient among them the merged one is dense anyway: then there are no indices, and all are whole.
    """
    alike = all(row.layout == torch.sparse_coo for row in column)
    if not alike or len({row.sparse_dim() for row in column}) > 1:
        return None, [row.to_dense() if _odd(row) else row for row in column]
    refuse_sparse()
    made = [row.coalesce() for row in column]
    indices = torch.cat([row.indices() for row in made], dim=1)
    union, place = torch.unique(indices, dim=1, return_inverse=True)
    parts = place.split([row.indices().shape[1] for row in made])
    dense = []
    for row, part in zip(made, parts, strict=True):
        values = row.values()
        dense.append(
            values.new_zeros(union.shape[1], *values.shape[1:]).index_copy_(0, part, values)
        )
    return union, dense

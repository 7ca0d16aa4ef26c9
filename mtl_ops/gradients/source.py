"""Where rows of J come from: how losses are differentiated, and what their gradients are stored in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .backward import derive
from .batched import Batching
from .rows import dense

__all__ = ["PLAIN", "Gradients", "Source"]

#: What the gradients of the tasks are: of the parameters' size; factors, wherever these are no dearer; whichever is
#: faster; factors of the losses of single samples.
Gradients = Literal["dense", "factored", "auto", "by_sample"]

#: Computes the gradient of ``Σ factor · output`` by each of several tensors or edges of the graph; ``None``
#: where none reaches it. Takes the outputs, what to differentiate by, the factors, and whether to keep the graph.
Derive = Callable[
    [Sequence[Any], Sequence[Tensor], Sequence[Tensor | None], bool], Sequence[Tensor | None]
]


@dataclass(frozen=True)
class Source:
    """How to differentiate.

    Attributes:
        dtype: What the gradients of single tasks are stored in; ``None`` for the parameters' own.
        batching: Differentiates all losses at once; ``None`` to do so one by one.
        derive: One backward.
        leaves_known: Whether the parameters are the leaves of the losses' graph.
        sparse: Whether sparse gradients stay so, for whoever takes them.
    """

    dtype: torch.dtype | None = None
    batching: Batching | None = None
    derive: Derive = derive
    leaves_known: bool = True
    sparse: bool = False

    @functools.cached_property
    def with_sparse(self) -> Source:
        """The same that leaves sparse gradients so."""
        return replace(self, sparse=True)

    def kept(self, rows: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients as autograd returned them, for whoever takes them: sparse ones are filled in if need be."""
        return list(rows) if self.sparse and self.dtype is None else [dense(row) for row in rows]


#: One by one, in the parameters' own dtype.
PLAIN = Source()

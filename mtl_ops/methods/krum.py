"""Krum and Multi-Krum."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import integer, only
from ._registry import register

__all__ = ["Krum"]


@register("krum")
class Krum(NativeMethod):
    """Multi-Krum: the mean of the gradients that have the nearest neighbours.

    Each of T gradients is scored by the sum of its squared distances
    ``|g_i - g_j|² = G_ii + G_jj - 2 G_ij`` to its ``T - n_byzantine - 2`` nearest neighbours. The
    ``n_selected`` with the least scores get the weight ``1 / n_selected``, the others 0. Of equal
    scores, that of the first task counts as the least.

    Args:
        n_byzantine: How many of the gradients may be arbitrary.
        n_selected: How many are averaged; 1 is Krum.
        squared: Whether squared distances are summed, as in the paper, or distances, as in TorchJD,
            which selects others where the gradients' norms differ.

    Guarantee (the paper's resilience): of ``T >= 2 n_byzantine + 3`` gradients, at most
    ``n_byzantine`` of them arbitrary and the others drawn independently with a spread that is small
    against their mean, Krum's choice has on average a positive inner product with that mean.

    Degenerate cases: with a single neighbour to look at (``T = n_byzantine + 3``), the nearest two
    have equal scores. Where tasks take no part in a step, at least one neighbour is looked at, and
    at most as many tasks are selected as there are.

    Raises:
        ValueError: If a parameter is out of range, or T is less than ``n_byzantine + 3`` or than
            ``n_selected``.
        TypeError: If a number is not an integer, or ``squared`` is not a bool.

    Peva Blanchard, El Mahdi El Mhamdi, Rachid Guerraoui, Julien Stainer, "Machine Learning with
    Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017.

    Example:
        >>> import torch, mtl_ops
        >>> gradients = torch.tensor([[1.0, 0.0], [1.1, 0.0], [0.9, 0.1], [-99.0, 50.0]])
        >>> mtl_ops.merge(gradients, mtl_ops.methods.Krum(n_byzantine=1))
        tensor([1., 0.])
    """

    segmentwise = True

    def __init__(self, *, n_byzantine: int, n_selected: int = 1, squared: bool = True) -> None:
        self.n_byzantine = integer("n_byzantine", n_byzantine, 0)
        self.n_selected = integer("n_selected", n_selected, 1)
        if not isinstance(squared, bool):
            raise TypeError(f"Parameter `squared` should be a bool. Found `squared = {squared!r}`.")
        self.squared = squared

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        tasks = gram.shape[-1]
        if tasks < self.n_byzantine + 3:
            raise ValueError(
                "Parameter `n_byzantine` should be at most the number of tasks less 3. "
                f"Found `n_byzantine = {self.n_byzantine}` with {tasks} tasks."
            )
        if tasks < self.n_selected:
            raise ValueError(
                "Parameter `n_selected` should be at most the number of tasks. "
                f"Found `n_selected = {self.n_selected}` with {tasks} tasks."
            )
        return ops.solve_krum(
            gram,
            scale,
            n_byzantine=self.n_byzantine,
            n_selected=self.n_selected,
            squared=self.squared,
        )

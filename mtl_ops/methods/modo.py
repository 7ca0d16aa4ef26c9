"""MoDo."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._checks import non_negative, positive
from ._registry import register
from ._simplex import SimplexMethod

__all__ = ["MoDo"]


@register("modo")
class MoDo(SimplexMethod):
    """Multi-objective gradient with double sampling.

    Each call takes one step

        ``w <- Π(w - γ (A w + ρ w))``

    with Π the projection on the simplex, and answers with w. Here ``A = J₁J₂ᵀ`` holds the inner
    products of the gradients of two independent batches, so that ``A w`` is an unbiased estimate;
    the weights are then those for the mean of both, or for a third. Hand it in as ``cross_gram``
    (:func:`mtl_ops.cross_gram` measures it). Without it, ``A = G``: one batch is enough, but the
    estimate is biased, and the paper's convergence does not hold.

    Guarantees: the weights are not negative and sum to 1.

    Args:
        gamma: γ. It multiplies the gradients' squared norms: choose it with their size in mind.
            LibMTL has 1e-3, TorchJD 0.1.
        rho: ρ, pulls the weights towards each other.

    Memory: w, at first ``1/T``. A task that takes no part in a step keeps its share of w.

    Degenerate cases: T = 1: ``w = 1``. Where all gradients are zero, the weights drift towards
    ``1/T`` with ρ and otherwise stay.

    Raises:
        ValueError: If a parameter is out of range, or ``cross_gram`` has not the shape of G.
        TypeError: If a parameter is of the wrong type.

    Lisha Chen, Heshan Fernando, Yiming Ying, Tianyi Chen, "Three-Way Trade-Off in Multi-Objective
    Learning: Optimization, Generalization and Conflict-Avoidance", NeurIPS 2023.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.MoDo(gamma=0.1)
        >>> first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)
        >>> method.weights(first @ first.T, cross_gram=first @ second.T)
        tensor([0.5250, 0.4750], dtype=torch.float64)
    """

    def __init__(self, *, gamma: float = 1e-3, rho: float = 0.1) -> None:
        super().__init__()
        self.gamma = positive("gamma", gamma)
        self.rho = non_negative("rho", rho)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        products = self.products(gram, given)
        return ops.solve_modo(
            products, scale, state=self.start(gram), gamma=self.gamma, rho=self.rho
        )

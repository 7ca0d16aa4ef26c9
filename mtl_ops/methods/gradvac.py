"""GradVac."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import closed_share, non_negative
from ._memory import recall
from ._orders import orders_for
from ._registry import register

__all__ = ["GradVac"]


@register("gradvac")
class GradVac(NativeMethod):
    """Gradient vaccine: gradients are turned towards each other as far as they usually agree.

    A copy ``g ← g_i`` of each gradient meets the original gradients ``g_j`` of the others in a
    random order. If its cosine φ with ``g_j`` is below ρ_ij, the running mean of what it has been,
    ``g ← g + a g_j`` makes it ρ_ij:

        ``a = |g| (ρ √(1-φ²) - φ √(1-ρ²)) / (|g_j| √(1-ρ²))``;

    then ``ρ_ij ← (1-β) ρ_ij + β φ``. The merged gradient is the sum of what becomes of the copies.

    Guarantees: ``|ρ| ≤ 1``. With two tasks, a corrected gradient has the cosine ρ with the other
    original. Nothing depends on the gradients' size (with ``eps = 0``).

    Args:
        beta: β; the paper has 0.01, LibMTL and TorchJD 0.5.
        eps: Added to both denominators, ``|g||g_j|`` of φ and that of a. LibMTL and TorchJD have
            1e-8, which hides half of the conflict between gradients of length 1e-4, and nearly all
            of it at 1e-5.
        tol: A cosine that is less than this below ρ is left alone. At 0, as in LibMTL and TorchJD,
            rounding turns the weights of two equal tasks into anything between 1 and 2; take 1e-5
            for noisy gradients.

    Memory: ρ, ``(S, T, T)`` for S sets of parameters, at first 0. Pairs of tasks of which one takes
    no part keep theirs. A step whose gradients are not finite leaves it as it is.

    An order can be handed in as ``orders``, as for ``PCGrad``.

    Degenerate cases: a gradient that is zero, or has become so but for rounding, has the cosine 0.
    Where ρ nears 1, a grows without limit: so does the formula. T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range, ``orders`` has another shape, or the number of
            tasks changes.
        TypeError: If a parameter is of the wrong type, or ``orders`` is no tensor of integers.

    Zirui Wang, Yulia Tsvetkov, Orhan Firat, Yuan Cao, "Gradient Vaccine: Investigating and Improving
    Multi-task Optimization in Massively Multilingual Models", ICLR 2021.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.GradVac()
        >>> mtl_ops.merge(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), method)
        tensor([0.5000, 1.5000])
        >>> method.rho[0, 0, 1]  # half the way from 0 to -1/√2
        tensor(-0.3536, dtype=torch.float64)
    """

    state_names = ("rho",)

    def __init__(self, *, beta: float = 0.5, eps: float = 0.0, tol: float = 1e-9) -> None:
        self.beta = closed_share("beta", beta)
        self.eps = non_negative("eps", eps)
        self.tol = non_negative("tol", tol)
        self.rho: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        orders = orders_for("random", given, gram, self.generator)
        rho = recall(self, "rho", tuple(gram.shape), gram.device, 0.0)
        return ops.solve_gradvac(
            gram, scale, orders=orders, rho=rho, beta=self.beta, eps=self.eps, tol=self.tol
        )

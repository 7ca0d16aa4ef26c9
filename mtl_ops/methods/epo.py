"""EPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, truth
from ._losses import losses_on
from ._preference import Preference
from ._registry import register

__all__ = ["EPO"]


@register("epo")
class EPO(NativeMethod):
    """Exact Pareto optimal search: to the point of the Pareto front where all ``r_i L_i`` are equal.

    With the shares l of ``r_i L_i`` in their sum, ``μ = Σ l_i log(T l_i)`` (0 where they are equal) and
    ``a_i = r_i (log(T l_i) - μ)``, w is the vector on the simplex that solves a linear program:

    * ``μ > tol``, balance: ``aᵀGw`` largest, so that the shares become more equal at the highest rate. The task of
      the largest ``r_i L_i`` must not get worse, ``(Gw)_i ≥ 0``, nor another one more than balance demands,
      ``(Gw)_j ≥ (Ga)_j`` where that is not positive: controlled ascent. If all ``(Ga)_j ≤ 0``: ``Gw ≥ 0``.
    * else, descent: ``Σ_j (Gw)_j`` largest with ``Gw ≥ 0``, and unless ``relax`` the balance kept,
      ``aᵀGw ≥ min(0, max_j (Ga)_j)``.

    Guarantees: ``w ≥ 0``, ``Σw = 1``; in balance the worst task does not get worse (1e-9 of the longest gradient's
    square), in descent no task does. Multiplying all gradients by a number multiplies d by it.

    Args:
        preference: r, one positive number a task; ``None`` for 1. A task of twice the number ends with half the loss.
            Can be handed in with each call. It is not only proportions that count: r is also the size of ``a``, and
            so of the ascent that is allowed; the paper's examples have numbers that sum to 1.
        tol: μ at which balance turns to descent.
        relax: Whether descent may disturb the balance.

    The step size factor of the official code, ``10 max(μ, 0.1)``, is the learning rate's affair and left out.

    Degenerate cases: a linear program has its answer at a corner: w jumps as the gradients change, and where several
    corners are equally good one is chosen. Losses of 0 are taken for 1e-300 in logarithms; if all are, they are equal.
    A loss that is negative makes all weights NaN. No gradient, or T = 1: equal weights. In descent there may be no w
    that harms no task and keeps the balance (one in a hundred of random problems); the answer is MGDA's then, which
    harms no task. Bounds hold to 1e-9 of their largest coefficient. A task that takes no part is left out of shares
    and T.

    Where others differ: official code needs cvxpy and GLPK; it answers ``None`` where there is no such w; where all
    shares are equal to rounding, a is rounding and decides the answer there, while here it is left out below 1e-6.
    libmoon's copy takes no share for less than 1e-3 of its mean in the logarithm.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Debabrata Mahapatra, Vaibhav Rajan, "Multi-Task Learning with User Preferences: Gradient Descent with Controlled
    Ascent in Pareto Optimization", ICML 2020.

    Example:
        >>> import torch, mtl_ops
        >>> rows, losses = torch.tensor([[1.0, 0.0], [-0.5, 1.0]]), torch.tensor([1.0, 3.0])
        >>> mtl_ops.merge(rows, "epo", losses=losses)  # the second loss is too large
        tensor([-0.5000,  1.0000])
        >>> mtl_ops.merge(rows, mtl_ops.methods.EPO(preference=[3.0, 0.5]), losses=losses)
        tensor([1., 0.])
    """

    segmentwise = True
    uses_losses = True

    def __init__(
        self,
        *,
        preference: Sequence[float] | Tensor | None = None,
        tol: float = 1e-4,
        relax: bool = False,
    ) -> None:
        self.preference = Preference(preference, "positive")
        self.tol = non_negative("tol", tol)
        self.relax = truth("relax", relax)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        preference = self.preference.on_gram(given, gram)
        values = losses_on(gram, losses, self.name)
        return ops.solve_epo(
            gram, scale, losses=values, preference=preference, tol=self.tol, relax=self.relax
        )

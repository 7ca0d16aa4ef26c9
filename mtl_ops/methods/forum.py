"""FORUM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import only, positive
from ._memory import keep, recall
from ._registry import register

__all__ = ["FORUM"]

_STEPS = 60


@register("forum")
class FORUM(NativeMethod):
    """First-order multi-gradient method of bi-level problems: many objectives, and one constraint.

    The losses are T objectives F (of the upper level) and, *last of all*, the constraint q: how much
    worse the lower level's objective is than after the caller's inner loop, ``q(θ, α) = f(θ, α) -
    f(θ*, α)`` with ``θ*`` held fixed. Both are functions of the same parameters (θ, α), and so there
    are T + 1 gradients and their Gram matrix, and one direction that decreases all F while q
    decreases at the rate ``ρ|∇q|²``. Its weights are γ for the objectives, and ν for the constraint:

        ``min_{γ ∈ Δ, ν >= 0} ½ |Σ_i γ_i ∇F_i + ν ∇q|² - ν ρ |∇q|²``,

    found to rounding: for each ν, γ gives the point of the convex hull of ``∇F_i + ν ∇q`` nearest to
    0, and the rate of q there grows with ν. γ is averaged over the steps, ``γ̄ <- (1 - β) γ̄ + β γ``,
    and then ``ν = max(Σ_i γ̄_i π_i, 0)``, ``π_i = ρ - ∇F_i·∇q / |∇q|²``.

    Guarantees: γ is not negative and sums to 1, ``ν >= 0``; the answer is of degree 0 in the
    gradients. With ``β = 1`` and d the merged gradient, ``∇q·d >= ρ|∇q|²``.

    Args:
        rho: ρ.
        beta: β, in (0, 1]; 1 for no average.

    Memory: γ̄.

    The official code and LibMTL minimise ``|…|² - νρ|∇q|²`` with a bound on ν, which is not the dual
    of the problem (half the ρ); the weights differ by 0.1 to 0.2.

    Degenerate cases: without the constraint, or where ``∇q = 0``, ``ν = 0``, and γ is that of MGDA.
    An objective that takes no part has the weight 0 and keeps its γ̄; the others' are divided by
    their sum. If a gradient is not finite, w is NaN and γ̄ stays.

    Raises:
        ValueError: If a parameter is out of range, there are fewer than two losses, or the tasks or
            segments change.
        TypeError: If a parameter is not a number.

    Feiyang Ye, Baijiong Lin, Xiaofeng Cao, Yu Zhang, Ivor W. Tsang, "A First-Order Multi-Gradient
    Algorithm for Multi-Objective Bi-Level Optimization", ECAI 2024.

    Example:
        >>> import torch, mtl_ops
        >>> gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])  # q against both
        >>> mtl_ops.merge(gradients, "forum")
        tensor([-0.1000, -0.1000])
    """

    state_names = ("average",)

    def __init__(self, *, rho: float = 0.1, beta: float = 1.0) -> None:
        self.rho = positive("rho", rho)
        if positive("beta", beta) > 1.0:
            raise ValueError(f"Parameter `beta` should be in (0, 1]. Found `beta = {beta}`.")
        self.beta = beta
        self.average: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given)
        if gram.shape[1] < 2:
            raise ValueError(
                f"Method {self.name!r} should have an objective and a constraint at least. "
                f"Found {gram.shape[1]} loss."
            )
        shape = (gram.shape[0], gram.shape[1] - 1)
        average = recall(self, "average", shape, gram.device, torch.nan)
        scale = torch.ones_like(gram[..., 0]) if scale is None else scale
        problem = _Problem(gram, scale)
        usable = problem.usable.unsqueeze(1)
        gamma = problem.nearest(self.rho)
        mixed = (1.0 - self.beta) * average + self.beta * gamma
        average = torch.where(
            problem.part & usable, torch.where(average.isnan(), gamma, mixed), average
        )
        keep(self, average=average)
        kept = torch.where(problem.part, average, 0.0)
        kept = torch.where(problem.part, kept / kept.sum(dim=1, keepdim=True), 0.0)
        nu = problem.multiplier(kept, self.rho)
        weights = torch.where(usable, torch.cat([kept, nu.unsqueeze(1)], dim=1), torch.nan)
        return torch.where(scale != 0, scale * weights, 0.0)


class _Problem:
    """The objectives and the constraint in S segments.

    Attributes:
        part: ``(S, T)`` bool, objectives that take part.
        usable: ``(S,)`` bool, whether all that takes part is finite.
    """

    def __init__(self, gram: Tensor, scale: Tensor) -> None:
        present = scale != 0
        scaled = torch.where(
            present.unsqueeze(2) & present.unsqueeze(1),
            scale.unsqueeze(2) * gram * scale.unsqueeze(1),
            0.0,
        )
        self.usable = scaled.isfinite().all(dim=2).all(dim=1)
        self.part = present[:, :-1]
        self.objectives = scaled[:, :-1, :-1]
        self.across = scaled[:, :-1, -1].contiguous()
        self.square = scaled[:, -1, -1]

    def nearest(self, rho: float) -> Tensor:
        """γ for the least ν that lets q fall at its rate, ``(S, T)``."""
        wanted = rho * self.square
        lowest = torch.where(self.part, self.across, torch.inf).min(dim=1).values
        low = torch.zeros_like(self.square)
        high = torch.where(self.square > 0, (rho - lowest / self.square).clamp(min=0.0), 0.0)
        (gamma, below), (_, above) = self._at(low, wanted), self._at(high, wanted)
        done = below >= 0.0
        on_host = wanted.device.type == "cpu"  # where to look costs no wait
        for step in range(_STEPS):
            # Halving shrinks the bracket whatever happens; a secant ends it once no face changes.
            middle = (
                0.5 * (low + high) if step % 2 else low - below * (high - low) / (above - below)
            )
            middle = torch.where(middle.isfinite(), middle.clamp(min=low, max=high), low)
            found, rate = self._at(middle, wanted)
            gamma = torch.where(done.unsqueeze(1), gamma, found)
            left = rate < 0.0
            low, below = torch.where(left, middle, low), torch.where(left, rate, below)
            high, above = torch.where(left, high, middle), torch.where(left, above, rate)
            if on_host and bool((done | (rate.abs() <= 1e-14 * wanted)).all()):
                break
        return gamma

    def _at(self, nu: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """γ for a given ν, and how much faster than wanted q falls."""
        lift = nu.unsqueeze(1) * self.across
        shifted = self.objectives + lift.unsqueeze(2) + lift.unsqueeze(1)
        shifted = shifted + (nu.square() * self.square).view(-1, 1, 1)
        gamma = ops.solve_mgda(shifted.contiguous(), self.part.double())
        rate = (gamma * self.across).sum(dim=1) + nu * self.square
        return gamma, rate - wanted

    def multiplier(self, gamma: Tensor, rho: float) -> Tensor:
        """ν for a given γ, ``(S,)``."""
        rates = (gamma * self.across).sum(dim=1) / self.square
        return torch.where(self.square > 0, (rho - rates).clamp(min=0.0), 0.0)

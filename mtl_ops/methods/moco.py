"""MoCo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ._checks import non_negative, one_of, only, positive
from ._memory import keep, recall
from ._registry import register
from ._tracking import MovingAverage

__all__ = ["MoCo"]


@register("moco")
class MoCo(MovingAverage):
    """Multi-objective gradient with correction: averages of the gradients, and weights for those.

    In step k it moves averages Y of the gradients, and weights λ on the simplex:

        ``Y <- Y - β_k (Y - J)``,  ``β_k = β / k^σ``,
        ``λ <- Π(λ - γ_k (Y Yᵀ + ρ I) λ)``,  ``γ_k = γ / k^σ'``,

    and merges the averages, ``d = Yᵀ λ``: an estimate of the direction of the whole data set's
    gradients that becomes unbiased with time, where that from one batch does not.

    **Memory of J's size:** Y, T gradients of the shared parameters. In a single process only. Besides
    it, λ, at first ``1/T``, and k.

    Guarantees: ``λ >= 0``, and λ sums to 1 if all tasks take part.

    Args:
        beta: β, in (0, 1].
        beta_sigma: σ.
        gamma: γ. It multiplies the gradients' squared norms: choose it with their size in mind.
        gamma_sigma: σ'.
        rho: ρ, pulls the weights towards each other.
        projection: Π: the nearest point of the ``"simplex"``, as in the paper, or the
            ``"softmax"``, as in LibMTL.

    The authors' code and LibMTL divide each gradient by its norm and multiply it with the loss; that
    is not in the paper, and not done here.

    Y starts at 0, so the first merged gradients are short. ``report.gram`` and ``report.norms`` are
    of the gradients themselves, ``report.weights`` are factors of Y. The clip of each task's
    gradient and its weight act on the gradient before it enters Y.

    Degenerate cases: a task that takes no part in a step has the weight 0; its Y and λ stay. If a
    gradient that takes part is not finite, everything stays, and the answer is NaN.

    Raises:
        ValueError: If a parameter is out of range, or tasks, segments or parameters change.
        TypeError: If a parameter is of the wrong type.

    Heshan Fernando, Han Shen, Miao Liu, Subhajit Chaudhury, Keerthiram Murugesan, Tianyi Chen,
    "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach", ICLR
    2023.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.MoCo(gamma=0.5)
        >>> gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> mtl_ops.merge(gradients, method)  # λ = (0.59375, 0.40625), Y = J / 2
        tensor([0.2969, 0.4062])
    """

    state_names = ("memory", "shares", "calls")

    def __init__(
        self,
        *,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        projection: Literal["simplex", "softmax"] = "simplex",
    ) -> None:
        super().__init__()
        if positive("beta", beta) > 1.0:
            raise ValueError(f"Parameter `beta` should be in (0, 1]. Found `beta = {beta}`.")
        self.beta = beta
        self.beta_sigma = non_negative("beta_sigma", beta_sigma)
        self.gamma = positive("gamma", gamma)
        self.gamma_sigma = non_negative("gamma_sigma", gamma_sigma)
        self.rho = non_negative("rho", rho)
        self.projection = one_of("projection", projection, ("simplex", "softmax"))
        self.shares: Tensor | None = None

    def track(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        losses: Tensor | None,
        places: Sequence[int],
        segments: Sequence[int],
    ) -> list[Tensor | None]:
        return self.average(
            rows, factors, self.beta / self.count(factors) ** self.beta_sigma, places
        )

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        """The weights of averages whose Gram matrix is given."""
        only(given)
        shape, tasks = tuple(gram.shape[:2]), gram.shape[1]
        known = recall(self, "shares", shape, gram.device, 1.0 / tasks)
        scale = torch.ones_like(known) if scale is None else scale
        part = scale != 0
        calls = recall(self, "calls", (), gram.device, 0.0).clamp(min=1.0)
        ridge = self.rho * torch.eye(tasks, dtype=gram.dtype, device=gram.device)
        scaled = torch.where(
            part.unsqueeze(2) & part.unsqueeze(1),
            scale.unsqueeze(2) * gram * scale.unsqueeze(1) + ridge,
            0.0,
        )
        scaled = self.gamma / calls**self.gamma_sigma * scaled
        if self.projection == "softmax":
            return torch.where(part, scale * self._softmax_step(known, scaled, part), 0.0)
        weights = ops.solve_modo(scaled, part.double(), state=known, gamma=1.0, rho=0.0)
        return torch.where(part, scale * weights, 0.0)

    def _softmax_step(self, known: Tensor, scaled: Tensor, part: Tensor) -> Tensor:
        """The step with the softmax, on the tasks that take part as if there were no others."""
        old = torch.where(part, known, 0.0)
        mass = old.sum(dim=1, keepdim=True)
        old = torch.where(part & (mass > 0), old / mass, part / part.sum(dim=1, keepdim=True))
        slope = (scaled @ old.unsqueeze(2)).squeeze(2)
        new = (old - slope).masked_fill(~part, -torch.inf).softmax(dim=1)
        usable = part & scaled.isfinite().all(dim=2).all(dim=1, keepdim=True)
        keep(self, shares=torch.where(usable, mass * new, known))
        return new

"""Penalty-based boundary intersection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._base import LossMethod, check_losses
from ._checks import PerTask, non_negative
from ._losses import numbers
from ._registry import register

__all__ = ["PBI"]

_EPSILON = 1e-12  # keeps the derivative of the distance finite where the distance is 0


@register("pbi")
class PBI(LossMethod):
    """Penalty-based boundary intersection: goes along a preferred ray towards the ideal point.

    With the ray's direction ``u = r / |r|``, the losses over the ideal point ``f = L - z``, their
    way along the ray ``d₁ = f·u`` and their distance from it ``d₂ = √(|f - d₁u|² + 1e-12)``, it
    minimises ``d₁ + θ d₂``:

        ``w = u + θ (f - d₁u) / d₂``.

    Guarantee: ``w·u = 1``.

    Args:
        weights: r, T numbers of at least 0.
        theta: θ.
        reference: z, T numbers; ``None`` for 0.

    Weights can be negative: of tasks whose loss should grow to come nearer to the ray.

    Degenerate cases: a task whose loss is not finite has the weight 0, and r, z and L are then
    those of the others.

    Raises:
        ValueError: If a parameter is out of range, or has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Qingfu Zhang, Hui Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition",
    IEEE Transactions on Evolutionary Computation 2007.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.PBI(weights=[1.0, 1.0], theta=0.1)
        >>> method.weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.6364, 0.7778], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        weights: Sequence[float] | Tensor,
        theta: float = 5.0,
        reference: Sequence[float] | Tensor | None = None,
    ) -> None:
        self.preference = PerTask("weights", weights, "some")
        self.theta = non_negative("theta", theta)
        self.reference = None if reference is None else PerTask("reference", reference)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        part = values.isfinite()
        preference = torch.where(part, numbers(self.preference, values, 1.0), 0.0)
        over = torch.where(part, values - numbers(self.reference, values, 0.0), 0.0)
        ray = preference / preference.norm()
        across: Tensor = over - over.dot(ray) * ray
        across = across - across.dot(ray) * ray
        weights: Tensor = ray + self.theta * across / (across.dot(across) + _EPSILON).sqrt()
        return weights

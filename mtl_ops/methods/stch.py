"""Smooth Tchebycheff scalarization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import PerTask, one_of, positive
from ._registry import register

__all__ = ["STCH"]


@register("stch")
class STCH(LossMethod):
    """Smooth Tchebycheff scalarization (STCH): minimises a smooth maximum of the losses.

    ``"linear"``, the paper's form, with preferences λ and an ideal point z:

        ``μ log Σ_i exp(λ_i (L_i - z_i) / μ)``,  ``w_i = λ_i softmax(λ (L - z) / μ)_i``.

    ``"log"``, the official form for multi-task learning, with a nadir point z:

        ``T μ log Σ_i exp(λ_i log(L_i / z_i) / μ)``,
        ``w_i = T λ_i softmax(λ log(L / z) / μ)_i / L_i``.

    Guarantees: ``w > 0``; ``"linear"``: ``Σ_i w_i / λ_i = 1``; ``"log"``: ``Σ_i w_i L_i / λ_i = T``.

    Args:
        mu: μ; the maximum is sharper the smaller it is. The paper tries 0.01 to 1.
        weights: λ, T numbers above 0; ``None`` for ``1/T`` in the linear form (as TorchJD), 1 in
            the logarithmic one (which has no λ in the official code and LibMTL).
        reference: z, T numbers; ``None`` for 0 in the linear form, 1 in the logarithmic one, where
            they have to be positive. The official code and LibMTL measure the losses' means in
            some first epochs and take those for z.
        form: ``"linear"`` or ``"log"``.

    Degenerate cases: a task whose loss is not finite has the weight 0, and T does not count it. In
    the logarithmic form, a loss that is not positive makes all weights NaN.

    Raises:
        ValueError: If a parameter is out of range, or has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Xi Lin, Xiaoyuan Zhang, Zhiyuan Yang, Fei Liu, Zhenkun Wang, Qingfu Zhang, "Smooth Tchebycheff
    Scalarization for Multi-Objective Optimization", ICML 2024.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.methods.STCH().weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.1345, 0.3655], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        mu: float = 1.0,
        weights: Sequence[float] | Tensor | None = None,
        reference: Sequence[float] | Tensor | None = None,
        form: Literal["linear", "log"] = "linear",
    ) -> None:
        self.mu = positive("mu", mu)
        self.form = one_of("form", form, ("linear", "log"))
        self.preference = None if weights is None else PerTask("weights", weights, "positive")
        self.reference = (
            None
            if reference is None
            else PerTask("reference", reference, "positive" if form == "log" else "any")
        )

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        preference, reference = (
            None if given is None else given.on(values.device, len(values))
            for given in (self.preference, self.reference)
        )
        return ops.weigh_stch(
            values,
            preference=preference,
            reference=reference,
            mu=self.mu,
            logarithmic=self.form == "log",
        )

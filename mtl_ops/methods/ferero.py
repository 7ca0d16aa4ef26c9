"""FERERO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative
from ._losses import losses_on
from ._preference import Preference
from ._registry import register

__all__ = ["FERERO"]


@register("ferero")
class FERERO(NativeMethod):
    """Preference as an equality: descends while the losses are drawn to the ray ``L ∥ r``.

        ``w = λ + q``,  with  ``½|Jᵀ(λ + q)|² - κ q·L``  least over λ on the simplex and ``q ⟂ r``.

    On the ray, and with κ = 0, q only changes where w may lie: the shortest ``Jᵀw`` of all w with the same ``r·w`` as
    a vector on the simplex.

    Guarantees: ``r·w`` lies between the least and the largest of r; w is the minimiser (with gradients of full rank it
    is the only one).

    Args:
        preference: r, one positive number a task: a task of twice the number ends with *twice* the loss. Can be handed
            in with each call.
        kappa: κ, how strongly it is drawn there, in units of a squared gradient over a loss: it has to grow with both.

    Weights can be negative: of tasks whose loss should grow to come nearer to the ray.

    The problem is solved as a parabola and the lower hull of T points, in one eigendecomposition.

    Degenerate cases: where gradients depend on each other so that what would move L to the ray moves no parameter,
    nothing is least, and the answer is MGDA's; below what eigenvalue of their cosines gradients count as dependent
    follows from their dtype: lengths of six decades do not make them so. No gradient, or T = 1: equal weights. A loss
    that is not finite makes all weights NaN. Tasks that take no part are left out of r and L.

    Where others differ: official code has T = 2 and projected gradient steps of 0.1, which diverged in a quarter of
    random problems and elsewhere were off by 0.4% (median), in a tenth of them by more than d; and κ = 1, 0.5 and 0.1
    in three places.

    Raises:
        ValueError: If a parameter is out of range, or ``preference`` has not T numbers.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Lisha Chen, A F M Saif, Yanning Shen, Tianyi Chen, "FERERO: A Flexible Framework for Preference-Guided
    Multi-Objective Learning", NeurIPS 2024.

    Example:
        >>> import torch, mtl_ops
        >>> rows, losses = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 3.0])
        >>> method = mtl_ops.methods.FERERO(preference=[1.0, 1.0])
        >>> mtl_ops.merge(rows, method, losses=losses)  # the second loss is too large
        tensor([-0.4000,  1.2000])
    """

    segmentwise = True
    uses_losses = True
    uses_rounding = True

    def __init__(
        self, *, preference: Sequence[float] | Tensor | None = None, kappa: float = 1.0
    ) -> None:
        self.preference = Preference(preference, "positive")
        self.kappa = non_negative("kappa", kappa)

    def solve(
        self,
        gram: Tensor,
        scale: Tensor | None,
        losses: Tensor | None,
        *,
        rounding: float = ops.EXACT,
        **given: Any,
    ) -> Tensor:
        preference = self.preference.on_gram(given, gram)
        values = losses_on(gram, losses, self.name)
        return ops.solve_ferero(
            gram,
            scale,
            losses=values,
            preference=preference,
            kappa=self.kappa,
            rounding=rounding,
        )

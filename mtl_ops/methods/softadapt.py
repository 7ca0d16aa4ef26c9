"""SoftAdapt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import finite, integer, one_of
from ._memory import recall
from ._registry import register

__all__ = ["SoftAdapt"]


@register("softadapt")
class SoftAdapt(LossMethod):
    """SoftAdapt: the softmax of the slopes of the losses, more weight for those that fall more slowly.

        ``w_i = f_i e^(β s_i) / Σ_j f_j e^(β s_j)``,

    where s_i is the slope of the loss of task i in units of a call, from its last ``order + 1`` values by the
    backward difference that is exact for polynomials of that order, and

        ``f = 1`` (``"original"``), the same with ``s ← s / Σ_j |s_j|`` (``"normalised"``), or
        f_i the mean of those values (``"loss_weighted"``).

    Guarantees: ``w ≥ 0`` and ``Σw = 1``; with ``beta=0`` (and f = 1) all are the same. What is added to all losses
    changes nothing if ``"original"``. β has the unit of 1 / loss, but for ``"normalised"``.

    Args:
        beta: β; negative for more weight to those that fall faster.
        variant: f.
        order: Of the difference.

    Memory: ``(order + 1, T)``, the last losses of each task.

    Degenerate cases: as long as a task that takes part has fewer values, all weights are the same. If all slopes are
    0, so they are with ``"normalised"``, and if all means are 0 with ``"loss_weighted"``, which has no meaning for
    a negative mean: all weights are NaN then. A task that takes no part has the weight 0 and keeps its values; the
    sum is over the others.

    Where others differ: the official code divides by the *signed* sum of slopes if ``normalised``, which is negative
    where losses fall, and so turns the order round; its differences of order 2 and more are those of the oldest
    value; it adds 1e-8 to sums and takes the means in float32. PhysicsNeMo's ``SoftAdapt`` is ``exp(L(t) / L(t-1))``, a
    softmax of ratios: that is ``dwa`` with ``window=1`` and ``temperature=1``, one step earlier.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    A. Ali Heydari, Craig A. Thompson, Asif Mehmood, "SoftAdapt: Techniques for Adaptive Loss Weighting of Neural
    Networks with Multi-Part Loss Functions", arXiv 1912.12355, 2019.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.SoftAdapt(beta=1.0)
        >>> method.weights(None, torch.tensor([2.0, 1.0]))
        tensor([0.5000, 0.5000], dtype=torch.float64)
        >>> method.weights(None, torch.tensor([1.0, 1.0]))  # the second has not fallen
        tensor([0.2689, 0.7311], dtype=torch.float64)
    """

    state_names = ("recent",)

    def __init__(
        self,
        *,
        beta: float = 0.1,
        variant: Literal["original", "normalised", "loss_weighted"] = "original",
        order: int = 1,
    ) -> None:
        self.beta = finite("beta", beta)
        self.variant = one_of("variant", variant, ("original", "normalised", "loss_weighted"))
        self.order = integer("order", order, 1)
        self.recent: Tensor | None = None

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        shape = (self.order + 1, len(values))
        recent = recall(self, "recent", shape, values.device, torch.nan)
        return ops.weigh_softadapt(values, recent, beta=self.beta, variant=self.variant)

"""Geometric loss strategy."""

from __future__ import annotations

from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._registry import register

__all__ = ["Geometric"]


@register("geometric")
class Geometric(LossMethod):
    """The geometric loss strategy (GLS): minimises the geometric mean of the losses.

    With ``M = (Π_i L_i)^(1/T)``, computed in logarithms, so that no product overflows,

        ``w_i = ∂M/∂L_i = M / (T L_i)``.

    Guarantees: ``w > 0`` and ``Σ_i w_i L_i = M``; the direction of the merged gradient does not
    depend on the scale of any loss.

    Degenerate cases: where a loss is not positive there is no geometric mean: all weights become
    NaN, and so does the merged gradient (with ``nonfinite="skip_task"`` or ``"skip_step"`` the step
    is left out). A task whose loss is not finite has the weight 0, and T does not count it.

    Raises:
        TypeError: If there are no losses.

    Sumanth Chennupati, Ganesh Sistu, Senthil Yogamani, Samir A. Rawashdeh, "MultiNet++:
    Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning", CVPR
    Workshops 2019. LibMTL multiplies the losses themselves.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.methods.Geometric().weights(None, torch.tensor([1.0, 4.0]))
        tensor([1.0000, 0.2500], dtype=torch.float64)
    """

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        return ops.weigh_geometric(check_losses(losses, self.name))

"""LDC-MTL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ._base import check_losses
from ._checks import non_negative, one_of
from ._learnable import OneOperator
from ._memory import forget, recall, restore, saved
from ._registry import register

__all__ = ["LDCMTL"]


@register("ldc_mtl")
class LDCMTL(OneOperator):
    """Loss discrepancy control: learned weights, and a penalty on the gaps between weighted losses.

    With ``v_i = sigmoid(s_i)`` and y_i the loss of task i, or the logarithm of it by that of the first call, the model
    descends along, and s is learned by,

        ``f = Σ_i v_i y_i / Σ_i v_i + λ Σ_i |v_i y_i - v_{i+1} y_{i+1}|``,

    the first denominator held fixed. With ``k_i = sign(v_i y_i - v_{i+1} y_{i+1}) - sign(v_{i-1} y_{i-1} - v_i y_i)``,

        ``w_i = v_i (1/Σv + λ k_i) ∂y_i/∂L_i``,  ``∂f/∂s_i = v_i (1 - v_i) y_i (1/Σv + λ k_i)``.

    One backward a step. The penalty is on neighbours, so the order of the tasks has a part in it.

    Guarantee: ``w > 0`` as long as ``λ < 1/(2T)``: then a task whose weighted loss stands out below both of its
    neighbours, ``k = -2``, is not maximised.

    Args:
        lam: λ.
        normalise: ``"none"``: ``y = L``; ``"log"``: ``y = log(L / L(0))``.
        init: s at first.

    Memory: s, one parameter of the inner optimizer, see
    :class:`~mtl_ops.methods._learnable.LearnableMethod`; and with ``"log"`` ``L(0)``, the losses of the first call in
    which the task took part. Others can be handed in as ``initial_losses``, and are remembered from then on.

    Degenerate cases: a task that takes no part has the weight 0, the gradient of its s is 0, and its neighbours are
    compared with each other. ``sign(0) = 0``. A logarithm of a loss that is not positive makes all weights NaN.
    T = 1: ``w = 1`` (``"none"``).

    Where others differ: the paper's problem has two levels, which its algorithm reduces to this loss. Its code has
    three forms of it: this one, with λ = 0.01 (CelebA); the weights of a router that sees features, with logarithms
    whose ``L(0)`` is taken anew in every epoch and λ = 0.05 (QM9); and a router with the gap of the losses without
    weights (Cityscapes). A router is no function of the losses.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Peiyao Xiao, Chaosheng Dong, Shaofeng Zou, Kaiyi Ji, "LDC-MTL: Balancing Multi-Task Learning through Scalable Loss
    Discrepancy Control", arXiv 2502.08585, 2025.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.methods.LDCMTL(lam=0.1).weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.4269, 0.5731], dtype=torch.float64)
    """

    state_names = ("learned", "initial_losses")  # type: ignore[assignment]

    def __init__(
        self,
        *,
        lam: float = 0.01,
        normalise: Literal["none", "log"] = "none",
        init: float = 1.0,
    ) -> None:
        super().__init__(init=init)
        self.lam = non_negative("lam", lam)
        self.normalise = one_of("normalise", normalise, ("none", "log"))
        self.initial_losses: Tensor | None = None

    def weights(
        self,
        gram: Tensor | None,
        losses: Tensor | None = None,
        initial_losses: Tensor | None = None,
    ) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        if initial_losses is not None:
            self._begin(check_losses(initial_losses, self.name).to(values))
        return self._weights(values)

    def weigh(self, s: Tensor) -> Tensor:
        """``v / Σv``: the weights of y without a penalty; also where all v are as good as 0."""
        return torch.nn.functional.logsigmoid(s).softmax(dim=0)

    def slope(self, s: Tensor, losses: Tensor) -> Tensor:
        return self._derivatives(s, losses)[1]

    def _derivatives(self, s: Tensor, losses: Tensor) -> Tensor:
        initial = None
        if self.normalise == "log":
            shape = tuple(losses.shape)
            initial = recall(self, "initial_losses", shape, losses.device, torch.nan)
        return ops.weigh_ldc_mtl(losses, s, initial=initial, lam=self.lam)

    def _begin(self, losses: Tensor) -> None:
        """Takes note of first losses, for those that were."""
        shape = tuple(losses.shape)
        initial = recall(self, "initial_losses", shape, losses.device, torch.nan)
        new = losses.isfinite() & (losses > 0)
        initial.copy_(torch.where(new, losses, initial))

    def state_dict(self) -> dict[str, Any]:
        """The method's memory."""
        return {**super().state_dict(), "initial_losses": saved(self, "initial_losses")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, s into the parameter that the optimizer knows."""
        super().load_state_dict(state)
        restore(self, "initial_losses", state["initial_losses"])

    def reset(self) -> None:
        """Sets s back to ``init``, and forgets the first losses."""
        super().reset()
        forget(self, "initial_losses")

"""GradNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._base import NativeMethod, check_losses
from ._checks import non_negative, only, positive
from ._memory import keep, recall
from ._registry import register

__all__ = ["GradNorm"]


@register("gradnorm")
class GradNorm(NativeMethod):
    """GradNorm: learns weights that let all tasks train at a similar rate.

    The weighted gradient of task i should have the norm ``N_i = mean_j(w_j n_j) · r_i^α``, where n
    are the norms of the gradients and r_i, the inverse training rate, is ``L_i / L_i(0)`` over its
    mean. After each call, the weights ``w = T·softmax(s)`` take one gradient step on

        ``Σ_i |w_i n_i - N_i|``

    (N held fixed, n in units of its mean), ``s <- s - lr · ∂/∂s``.

    Guarantees: ``w > 0``, ``Σw = T``, and w does not depend on the size of all gradients together.
    The paper steps on w itself with an optimizer of its own, normalizes w afterwards and can make it
    negative; LibMTL has ``T·softmax(s)``, too, and the model's optimizer for s.

    Args:
        alpha: α, how strongly tasks that lag are favoured. The paper has 1.5 in its experiments, as
            has LibMTL; SamsungLabs has 2.
        lr: Step size.

    Memory: s, and the losses ``L(0)`` of the first call in which the task took part; other losses
    can be handed in as ``initial_losses``. A task that takes no part in a step has the weight 0, the
    others' sum to their number, and its s stays.

    Degenerate cases: a task with ``L_i(0) = 0`` counts as if it had not improved. If all gradients
    are zero, s stays. Negative losses have no training rate: the weights become NaN. The memory
    stays as it is if a gradient is not finite.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If a parameter is not a number, or there are no losses.

    Zhao Chen, Vijay Badrinarayanan, Chen-Yu Lee, Andrew Rabinovich, "GradNorm: Gradient
    Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.GradNorm(lr=0.1)
        >>> gradients, losses = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.ones(2)
        >>> for _ in range(2):
        ...     w = method.weights(gradients @ gradients.T, losses)
        >>> w
        tensor([0.9003, 1.0997], dtype=torch.float64)
    """

    uses_losses = True
    state_names = ("logits", "initial_losses")

    def __init__(self, *, alpha: float = 1.5, lr: float = 0.025) -> None:
        self.alpha = non_negative("alpha", alpha)
        self.lr = positive("lr", lr)
        self.logits: Tensor | None = None
        self.initial_losses: Tensor | None = None

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        if scale is None:
            scale = torch.ones_like(gram[..., 0])
        present = scale != 0
        part = present.any(dim=0)
        squares = torch.where(present, scale.square() * gram.diagonal(dim1=1, dim2=2), 0.0)
        norms = squares.sum(dim=0).sqrt()
        ratios, logits = self._recall(check_losses(losses, self.name).to(gram.device), part, given)
        weights = logits.masked_fill(~part, -torch.inf).softmax(dim=0) * part.sum()
        usable = torch.where(part, norms + ratios, 0.0).isfinite().all()
        step = self.lr * self._slope(weights, norms, ratios, part)
        keep(self, logits=torch.where(part & usable, logits - step, logits))
        answer = torch.where(usable, scale * weights, torch.nan)
        return torch.where(present, answer, 0.0)

    def _recall(self, losses: Tensor, part: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """``L / L(0)`` and s, ``(T,)`` each; takes note of losses that are seen for the first time."""
        only(given, "initial_losses")
        shape, device = tuple(losses.shape), losses.device
        logits = recall(self, "logits", shape, device, 0.0)
        initial = recall(self, "initial_losses", shape, device, torch.nan)
        initial = torch.where(part & initial.isnan() & losses.isfinite(), losses, initial)
        keep(self, initial_losses=initial)
        if "initial_losses" in given:
            initial = check_losses(given["initial_losses"], self.name).to(losses.device)
        ratios = torch.where(initial == 0, 1.0, losses / initial)
        return torch.where((losses >= 0) & (initial >= 0), ratios, torch.nan), logits

    def _slope(self, weights: Tensor, norms: Tensor, ratios: Tensor, part: Tensor) -> Tensor:
        """``∂/∂s Σ_i |w_i n_i - N_i|``, n in units of its mean."""
        count = part.sum()

        def mean(values: Tensor) -> Tensor:
            return torch.where(part, values, 0.0).sum() / count

        relative = torch.where(norms > 0, norms / mean(norms), 0.0)
        wanted = mean(weights * relative) * (ratios / mean(ratios)) ** self.alpha
        slope = torch.where(part, torch.sign(weights * relative - wanted) * relative, 0.0)
        return weights * (slope - mean(weights * slope))

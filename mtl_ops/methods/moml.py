"""MOML."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import positive
from ._losses import shares
from ._memory import Adam, keep, recall
from ._registry import register
from .auto_lambda import validation_products

__all__ = ["MOML"]


@register("moml")
class MOML(LossMethod):
    """Multi-objective meta learning of the weights, with one inner step.

    The weights are ``w = softmax(ξ)``. After one step ``θ' = θ - α Σ_i w_i g_i`` on the training
    losses, validation loss j has by ξ the gradient

        ``H_j = -α (diag w - w wᵀ) X_·j``,  ``X_ij = g_i·∇V_j(θ')``,

    a vector of length T: no second derivatives. Before each answer, Adam takes ξ one step along the
    min-norm point of the rows of H, each divided by its length.

    More inner steps would need derivatives of gradients, which are no function of T×T numbers; they
    do not fit here. The step to θ' and the gradients there are the caller's: see
    :func:`mtl_ops.cross_gram`, and hand X in as ``cross_gram`` with each backward.

    Guarantee: ``w > 0`` and ``Σw = 1``.

    Args:
        inner_lr: α, the learning rate of the model.
        lr: Learning rate of Adam.

    Memory: ξ, at first 0, and Adam's moments.

    Degenerate cases: a task whose loss is not finite has the weight 0, and its ξ stays. A validation
    loss that no weight changes (a row of zeros in H) says that all is well, and ξ stays. If X is not
    finite, ξ stays.

    Raises:
        ValueError: If a parameter is out of range, X has not T rows, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there is no X, or there are no losses.

    Feiyang Ye, Baijiong Lin, Zhixiong Yue, Pengxin Guo, Qiao Xiao, Yu Zhang, "Multi-Objective Meta
    Learning", NeurIPS 2021.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.MOML(inner_lr=0.1, lr=0.1)
        >>> products = torch.tensor([[1.0, 2.0], [-2.0, 0.0]])  # both gain from the first task
        >>> method.weights(None, torch.ones(2), cross_gram=products)
        tensor([0.5498, 0.4502], dtype=torch.float64)
    """

    state_names = ("logits", "adam")

    def __init__(self, *, inner_lr: float, lr: float = 1e-3) -> None:
        self.inner_lr = positive("inner_lr", inner_lr)
        self.lr = positive("lr", lr)
        self.logits: Tensor | None = None
        self.adam: Tensor | None = None

    def weights(
        self, gram: Tensor | None, losses: Tensor | None = None, cross_gram: Tensor | None = None
    ) -> Tensor:
        """``(T,)`` float64; ``cross_gram`` is X, ``(T, V)``."""
        values = check_losses(losses, self.name)
        part = values.isfinite()
        products = validation_products(cross_gram, values, self.name)
        logits = recall(self, "logits", (len(values),), values.device, 0.0)
        adam = recall(self, "adam", (3, len(values)), values.device, 0.0)
        p = shares(logits, part)
        kept = torch.where(part.unsqueeze(1), products, 0.0).T
        rows = -self.inner_lr * p * (kept - (kept @ p).unsqueeze(1))
        lengths = rows.norm(dim=1, keepdim=True)
        rows = torch.where(lengths > 0, rows / lengths, 0.0)
        slope = ops.solve_mgda((rows @ rows.T).unsqueeze(0))[0] @ rows
        where = part & slope.isfinite().all() & (slope != 0).any()
        new, moments = Adam(self.lr).step(logits, slope, where, adam)
        keep(self, logits=new, adam=moments)
        return shares(new, part)

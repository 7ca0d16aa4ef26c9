"""Auto-Lambda."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._base import LossMethod, check_losses
from ._checks import PerTask, finite, positive
from ._losses import numbers, shares
from ._memory import Adam, keep, recall
from ._registry import register

__all__ = ["AutoLambda", "validation_products"]


@register("auto_lambda")
class AutoLambda(LossMethod):
    """Auto-Lambda: weights that make the training step good for the validation loss.

    After one step ``θ' = θ - α Σ_i λ_i g_i`` on the training losses, the validation losses
    ``L_p(θ') = Σ_j p_j V_j(θ')`` of the primary tasks have the derivatives

        ``∂L_p/∂λ_i = -α Σ_j p_j g_i·∇V_j(θ')``,

    so all that is needed are the inner products ``X_ij = g_i·∇V_j(θ')``: no second derivatives, and
    no finite differences as in the official code and LibMTL (whose error is about 1e-5). Before each
    answer, Adam takes λ one step against them; the answer is ``w = λ``.

    The step to θ' and the gradients there are the caller's: see
    :func:`mtl_ops.cross_gram`, and hand X in as ``cross_gram`` with each backward.

    Args:
        inner_lr: α, the learning rate of the model.
        lr: Learning rate of Adam; 1e-4 in the official code, 1e-3 in LibMTL.
        init: λ at first.
        primary: p, one number for each validation loss; ``None`` for 1.
        softmax: Learns logits and answers with their softmax, as LibMTL; ``init`` is then
            irrelevant. Without, nothing keeps λ from becoming negative.

    Memory: λ (or the logits) and Adam's moments.

    Degenerate cases: a task whose loss is not finite has the weight 0, and its λ stays. If X is not
    finite, all λ stay.

    Raises:
        ValueError: If a parameter is out of range, X has not T rows, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there is no X, or there are no losses.

    Shikun Liu, Stephen James, Andrew J. Davison, Edward Johns, "Auto-Lambda: Disentangling Dynamic
    Task Relationships", TMLR 2022.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.AutoLambda(inner_lr=0.1, lr=0.01)
        >>> products = torch.tensor([[1.0], [-2.0]])  # one helps the validation loss, one harms it
        >>> method.weights(None, torch.ones(2), cross_gram=products)
        tensor([0.1100, 0.0900], dtype=torch.float64)
    """

    state_names = ("lambdas", "adam")

    def __init__(
        self,
        *,
        inner_lr: float,
        lr: float = 1e-4,
        init: float = 0.1,
        primary: Sequence[float] | Tensor | None = None,
        softmax: bool = False,
    ) -> None:
        self.inner_lr = positive("inner_lr", inner_lr)
        self.lr = positive("lr", lr)
        self.init = finite("init", init)
        self.primary = None if primary is None else PerTask("primary", primary)
        self.softmax = softmax
        self.lambdas: Tensor | None = None
        self.adam: Tensor | None = None

    def weights(
        self, gram: Tensor | None, losses: Tensor | None = None, cross_gram: Tensor | None = None
    ) -> Tensor:
        """``(T,)`` float64; ``cross_gram`` is X, ``(T, V)``."""
        values = check_losses(losses, self.name)
        part = values.isfinite()
        products = validation_products(cross_gram, values, self.name)
        primary = numbers(self.primary, products[0], 1.0)
        slope = -self.inner_lr * products @ primary
        lambdas = recall(self, "lambdas", (len(values),), values.device, self.init)
        adam = recall(self, "adam", (3, len(values)), values.device, 0.0)
        if self.softmax:
            p = shares(lambdas, part)
            slope = p * (slope - p.dot(torch.where(part, slope, 0.0)))
        usable = torch.where(part, slope, 0.0).isfinite().all()
        new, moments = Adam(self.lr).step(lambdas, slope, part & usable, adam)
        keep(self, lambdas=new, adam=moments)
        return shares(new, part) if self.softmax else torch.where(part, new, 0.0)


def validation_products(cross_gram: Tensor | None, losses: Tensor, method: str) -> Tensor:
    """``X`` ``(T, V)`` float64, checked.

    Raises:
        TypeError: If there is none.
        ValueError: If it has not T rows.
    """
    if not isinstance(cross_gram, Tensor):
        raise TypeError(
            f"Method {method!r} needs the products of training and validation gradients: parameter "
            f"`cross_gram` should be a tensor. Found {type(cross_gram).__name__}."
        )
    if cross_gram.dim() != 2 or len(cross_gram) != len(losses) or cross_gram.shape[1] == 0:
        raise ValueError(
            f"Parameter `cross_gram` should have shape ({len(losses)}, V). "
            f"Found shape {tuple(cross_gram.shape)}."
        )
    return cross_gram.detach().to(losses)

"""SDMGrad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .. import ops
from ._checks import PerTask, integer, non_negative, positive, share
from ._registry import register
from ._simplex import SimplexMethod

__all__ = ["SDMGrad"]


@register("sdmgrad")
class SDMGrad(SimplexMethod):
    """Stochastic direction-oriented multi-objective gradient descent.

    The weights ``(w + λp) / (1 + λ)`` come from w on the simplex, which ``n_iter`` steps per call
    move towards the least ``½ |Jᵀ(w + λp)|²``:

        ``v <- m v + A(w + λp) / a²``,  ``w <- Π(w - lr v)``,

    with Π the projection on the simplex and a the mean of ``√A_ii``. Here ``A = J₁J₂ᵀ`` holds the
    inner products of the gradients of two independent batches, so that ``A(w + λp)`` is an unbiased
    estimate; the weights are then those for a third batch. Hand it in as ``cross_gram``
    (:func:`mtl_ops.cross_gram` measures it). Without it, ``A = G``: one batch is enough, and the
    estimate is biased.

    Guarantees: the weights are not negative and sum to 1 if p does. Nothing depends on the
    gradients' size.

    Args:
        lr: Step size; TorchJD has 10, LibMTL 5.
        momentum: m.
        n_iter: Steps per call.
        lam: λ; the original class has 0.6, its experiments, TorchJD and LibMTL 0.3.
        preference: p, one number for each task; ``None`` for ``1/k`` with k tasks.

    Memory: w, at first ``1/T``. A task that takes no part in a step keeps its share of w.

    Degenerate cases: if no ``A_ii`` is positive, there is no size to measure steps by, and w stays
    (TorchJD divides by 1e-8, and its weights may all become 0).

    Raises:
        ValueError: If a parameter is out of range, ``preference`` has not T numbers, or
            ``cross_gram`` has not the shape of G.
        TypeError: If a parameter is of the wrong type.

    Peiyao Xiao, Hao Ban, Kaiyi Ji, "Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms", NeurIPS 2023.

    Example:
        >>> import torch, mtl_ops
        >>> first, second, third = torch.randn(3, 2, 5, generator=torch.manual_seed(0))
        >>> method = mtl_ops.methods.SDMGrad()
        >>> w = method.weights(third @ third.T, cross_gram=first @ second.T)
        >>> w.sum()
        tensor(1., dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        lr: float = 10.0,
        momentum: float = 0.5,
        n_iter: int = 20,
        lam: float = 0.3,
        preference: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.lr = positive("lr", lr)
        self.momentum = share("momentum", momentum)
        self.n_iter = integer("n_iter", n_iter, 1)
        self.lam = non_negative("lam", lam)
        self.preference = None if preference is None else PerTask("preference", preference)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        products = self.products(gram, given)
        preference = PerTask.on_gram(self.preference, gram)
        return ops.solve_sdmgrad(
            products,
            scale,
            state=self.start(gram),
            preference=preference,
            lr=self.lr,
            momentum=self.momentum,
            n_iter=self.n_iter,
            lam=self.lam,
        )

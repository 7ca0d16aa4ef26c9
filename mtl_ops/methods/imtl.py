"""IMTL."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import ops
from ._base import check_gram, check_losses
from ._checks import non_negative, one_of, only
from ._registry import register
from .imtl_l import IMTLL

__all__ = ["IMTL"]


@register("imtl")
class IMTL(IMTLL):
    """Impartial multi-task learning, both parts: learned scales of the losses, then equal projections.

    Loss balance learns s as :class:`IMTLL` does, with the loss ``Σ_i e^(s_i) L_i - s_i``; gradient
    balance weighs the gradients of the *scaled* losses as :class:`IMTLG` does:

        ``w_i = e^(s_i) v_i``,  ``v`` the weights of IMTL-G for the gradients ``e^(s_i) g_i``.

    A parameter that one task alone reaches gets ``e^(s_i) g_i``, the gradient of its scaled loss; s
    gets ``∂/∂s_i = e^(s_i) L_i - 1``. This is what LibMTL calls ``IMTL``; ``imtl_g`` and ``imtl_l``
    are its halves.

    Guarantees: those of IMTL-G. As the gradients' lengths do not matter for its direction, s changes
    the length of the merged gradient, ``Σ v = 1``, and the steps of the heads.

    Args:
        init: s at first.
        on_ascent: As of :class:`IMTLG`.
        rank_tol: As of :class:`IMTLG`.

    Memory: s, one parameter of the inner optimizer, see
    :class:`~mtl_ops.methods._learnable.LearnableMethod`. An absent task has the weight 0, and the
    gradient of its s is 0.

    Degenerate cases: those of both parts.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, Qingmin Liao, Wayne
    Zhang, "Towards Impartial Multi-task Learning", ICLR 2021.

    Example:
        >>> import torch, mtl_ops
        >>> losses = torch.tensor([0.5, 2.0])
        >>> mtl_ops.merge(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "imtl", losses=losses)
        tensor([0.8000, 0.8000])
    """

    needs: Literal["gram", "losses", "coordinates"] = "gram"

    def __init__(
        self,
        *,
        init: float = 0.0,
        on_ascent: Literal["paper", "config"] = "paper",
        rank_tol: float | None = None,
    ) -> None:
        super().__init__(init=init)
        self.on_ascent = one_of("on_ascent", on_ascent, ("paper", "config"))
        self.rank_tol = None if rank_tol is None else non_negative("rank_tol", rank_tol)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None, **given: Any) -> Tensor:
        """See :meth:`Method.weights`."""
        matrices = check_gram(gram)
        stacked = matrices.reshape(-1, *matrices.shape[-2:])
        solved = self.solve(stacked, torch.ones_like(stacked[..., 0]), losses, **given)
        return solved.reshape(matrices.shape[:-1])

    def solve(self, gram: Tensor, scale: Tensor, losses: Tensor | None, **given: Any) -> Tensor:
        """See :meth:`Method.solve`."""
        only(given)
        return ops.solve_imtl_g(
            gram,
            self.scale_heads(scale, losses),
            avoid_ascent=self.on_ascent == "config",
            rank_tol=self.rank_tol,
        )

    def scale_heads(self, scale: Tensor, losses: Tensor | None) -> Tensor:
        """With the scales of the losses."""
        values = check_losses(losses, self.name).to(scale.device)
        return torch.where(scale != 0, scale * self.weigh(self._current(values)), 0.0)

"""IMTL-G."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import NativeMethod
from ._checks import non_negative, one_of, only
from ._registry import register

__all__ = ["IMTLG"]


@register("imtl_g")
class IMTLG(NativeMethod):
    """Impartial multi-task learning, gradient part: equal projections on all task gradients.

    The merged gradient d has the same inner product with every unit gradient ``g_i / |g_i|``, and
    the weights sum to 1:

        ``w = v / Σv``,  ``v_i = (C⁻¹1)_i / n_i``,

    with n the norms of the gradients and C their cosines. Where gradients depend on each other,
    ``v = G⁺n``, the generalization of Quinton and Rey, which TorchJD has, too.

    Guarantees, if the gradients are independent: ``g_i·d / n_i`` is the same for all i, ``Σw = 1``,
    and d has the direction of :class:`ConFIG` or, where ``Σv`` is negative, the opposite one. The
    gradients' lengths do not matter for the direction.

    That last point is the method's own weakness: where ``Σv`` is negative, the condition
    ``Σw = 1`` turns d around, and a step along it goes uphill for *every* task. It takes many tasks
    of different norms that share a direction (a fifth of such problems with 32 tasks).

    Args:
        on_ascent: What to do then: ``"paper"`` takes d as it is, as all other implementations do;
            ``"config"`` takes the weights of :class:`ConFIG`.
        rank_tol: Eigenvalues of C below this share of the largest are those of dependent gradients.
            ``None`` follows from the dtype of the gradients, with k tasks: ``32 k ε`` of float64
            (7e-15 k), 1e-6 k of float32, 8e-6 k of float16, 5e-4 k of bfloat16, the latter two also
            by ``grad_dtype``. Under autocast, gradients are noisier than their dtype tells: with
            noise of relative size δ, take ``10 k δ²``.

    LibMTL's ``IMTL`` is this and ``imtl_l`` together: here ``imtl``.

    Degenerate cases: a zero gradient has the weight 0 and changes nothing for the others. If all
    are zero, or ``|Σv|`` is no more of ``Σ|v|`` than rounding makes it (at least 1e-12; in float32,
    1e-6 k), the weights are 0 (with ``"config"``, they are ConFIG's). T = 1: ``w = 1``.

    Raises:
        ValueError: If a parameter is out of range.
        TypeError: If ``rank_tol`` is not a number.

    Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, Qingmin Liao, Wayne
    Zhang, "Towards Impartial Multi-task Learning", ICLR 2021.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), "imtl_g")
        tensor([0.8000, 0.8000])
    """

    segmentwise = True
    uses_rounding = True

    def __init__(
        self, *, on_ascent: Literal["paper", "config"] = "paper", rank_tol: float | None = None
    ) -> None:
        self.on_ascent = one_of("on_ascent", on_ascent, ("paper", "config"))
        self.rank_tol = None if rank_tol is None else non_negative("rank_tol", rank_tol)

    def solve(
        self,
        gram: Tensor,
        scale: Tensor | None,
        losses: Tensor | None,
        *,
        rounding: float = ops.EXACT,
        **given: Any,
    ) -> Tensor:
        only(given)
        return ops.solve_imtl_g(
            gram,
            scale,
            avoid_ascent=self.on_ascent == "config",
            rank_tol=self.rank_tol,
            rounding=rounding,
        )

"""IMTL-L."""

from __future__ import annotations

from ._learnable import LogScales
from ._registry import register

__all__ = ["IMTLL"]


@register("imtl_l")
class IMTLL(LogScales):
    """Impartial multi-task learning, loss balance: learns scales that make all losses equal.

    The loss of all tasks is ``Σ_i e^(s_i) L_i - s_i``:

        ``w_i = e^(s_i)``,  ``∂/∂s_i = e^(s_i) L_i - 1``.

    At its fixed point, ``w_i L_i = 1``. It is twice ``uncertainty`` with ``-s`` for s.

    Guarantee: ``w > 0``.

    Args:
        init: s at first.

    Memory: s, one parameter of the inner optimizer, see
    :class:`~mtl_ops.methods._learnable.LearnableMethod`. An absent task has the weight 0, and the
    gradient of its s is 0.

    Degenerate cases: a loss that is not positive has no fixed point: its weight grows without
    bound.

    Raises:
        ValueError: If ``init`` is not finite, or the number of tasks changes.
        TypeError: If ``init`` is not a number, or there are no losses.

    Liyang Liu, Yi Li, Zhanghui Kuang, Jing-Hao Xue, Yimin Chen, Wenming Yang, Qingmin Liao, Wayne
    Zhang, "Towards Impartial Multi-task Learning", ICLR 2021.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.methods.IMTLL().weights(None, torch.tensor([0.5, 2.0]))
        tensor([1., 1.], dtype=torch.float64)
    """

    factor, rate = 1.0, 1.0

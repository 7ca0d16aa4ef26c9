"""Sign agreement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from .. import ops
from ._base import CoordinateMethod
from ._checks import closed_share, one_of, only
from ._registry import register

__all__ = ["SignAgreement"]


@register("sign_agreement")
class SignAgreement(CoordinateMethod):
    """Moves only along coordinates where the signs of the gradients agree, the AND-mask.

    A coordinate is kept if ``|Σ_t sign g_t| >= τ k`` for the k tasks that take part, and is 0
    otherwise.

    Guarantees: with ``τ = 1`` no task's loss grows to first order along any coordinate.

    Args:
        tau: τ, in [0, 1]; 1 asks all tasks to agree, 0 none.
        reduce: ``"mean"`` or ``"sum"`` of the gradients where they agree.

    Degenerate cases: a gradient of 0 agrees with nobody. A NaN gives NaN.

    Raises:
        ValueError: If ``tau`` is out of range or ``reduce`` unknown.
        TypeError: If ``tau`` is not a number.

    Giambattista Parascandolo, Alexander Neitz, Antonio Orvieto, Luigi Gresele, Bernhard Schölkopf,
    "Learning Explanations that are Hard to Vary", ICLR 2021.

    Example:
        >>> import torch, mtl_ops
        >>> mtl_ops.merge(torch.tensor([[1.0, 2.0], [3.0, -2.0]]), "sign_agreement")
        tensor([2., 0.])
    """

    segmentwise = True

    def __init__(self, *, tau: float = 1.0, reduce: Literal["mean", "sum"] = "mean") -> None:
        self.tau = closed_share("tau", tau)
        self.reduce = one_of("reduce", reduce, ("mean", "sum"))

    def merge_(
        self,
        out: Sequence[Tensor],
        rows: Sequence[Tensor | None],
        scale: Tensor,
        segments: Sequence[int],
        clip_value: float | None,
        accumulate: bool,
        **given: Any,
    ) -> Tensor:
        """See :meth:`CoordinateMethod.merge_`."""
        only(given)
        return ops.merge_sign_agreement_(
            out,
            rows,
            scale,
            segments,
            clip_value,
            accumulate,
            tau=self.tau,
            mean=self.reduce == "mean",
        )

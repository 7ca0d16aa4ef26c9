"""What UPGrad and DualProj share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ._base import NativeMethod
from ._checks import non_negative, one_of
from ._preference import Preference

__all__ = ["DualConeMethod"]


class DualConeMethod(NativeMethod):
    """Projections on the dual cone of the gradients: a preference, and a ridge."""

    segmentwise = True
    uses_rounding = True

    def __init__(
        self,
        *,
        preference: Sequence[float] | Tensor | None = None,
        scaling: Literal["rows", "frobenius"] = "rows",
        reg_eps: float | None = None,
        norm_eps: float = 0.0,
    ) -> None:
        self.preference = Preference(preference, "some")
        self.scaling = one_of("scaling", scaling, ("rows", "frobenius"))
        self.reg_eps = None if reg_eps is None else non_negative("reg_eps", reg_eps)
        self.norm_eps = non_negative("norm_eps", norm_eps)

    def arguments(self, gram: Tensor, given: dict[str, Any], rounding: float) -> dict[str, Any]:
        """What the solvers take beside the Gram matrix and the scales."""
        return {
            "preference": self.preference.on_gram(given, gram),
            "scaling": self.scaling,
            "reg_eps": self.reg_eps,
            "norm_eps": self.norm_eps,
            "rounding": rounding,
        }

"""What SDMGrad and MoDo share: weights on the simplex that are remembered."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._base import NativeMethod
from ._checks import only, squares
from ._memory import recall

__all__ = ["SimplexMethod"]


class SimplexMethod(NativeMethod):
    """Projected steps on the simplex, from the last call's weights.

    Attributes:
        shares: ``(S, T)`` float64, the weights so far; ``None`` before the first call.
    """

    state_names = ("shares",)

    def __init__(self) -> None:
        self.shares: Tensor | None = None

    def start(self, gram: Tensor) -> Tensor:
        """The weights so far, at first all the same; changed in place by the solver.

        Raises:
            ValueError: If they are those of another number of tasks or segments.
        """
        shape = tuple(gram.shape[:2])
        return recall(self, "shares", shape, gram.device, 1.0 / shape[1])

    @staticmethod
    def products(gram: Tensor, given: dict[str, Any]) -> Tensor:
        """``A = J₁J₂ᵀ`` if it is given, else ``G``, ``(S, T, T)``.

        Raises:
            TypeError: If something else is given.
        """
        only(given, "cross_gram")
        cross_gram = given.get("cross_gram")
        return gram if cross_gram is None else squares("cross_gram", cross_gram, gram)

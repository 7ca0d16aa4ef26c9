"""From the option to what finds factors."""

from __future__ import annotations

from ..source import Gradients
from .by_sample import BySample
from .find import Factoring

__all__ = ["make_factoring"]


def make_factoring(gradients: Gradients) -> Factoring | BySample | None:
    """``None`` for the gradient of each task by itself."""
    if gradients == "dense":
        return None
    return BySample() if gradients == "by_sample" else Factoring(gradients)

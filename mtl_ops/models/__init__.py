"""Models in which several tasks share parameters."""

from .digits import DigitsCNN
from .shared_bottom import SharedBottom

__all__ = ["DigitsCNN", "SharedBottom"]

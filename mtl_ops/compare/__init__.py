"""Which kind of step pays on a user's own model: time, memory and error of each, side by side."""

from .cost import StepCost
from .steps import compare_steps

__all__ = ["StepCost", "compare_steps"]

"""Data sets with several tasks, on the same input or on inputs of their own."""

from .digits import DIGITS_TASKS, Split, digits
from .loader import Loader, move
from .task import Batch, Goal, Task
from .toy import TOY_STARTS, toy_losses

__all__ = [
    "DIGITS_TASKS",
    "TOY_STARTS",
    "Batch",
    "Goal",
    "Loader",
    "Split",
    "Task",
    "digits",
    "move",
    "toy_losses",
]

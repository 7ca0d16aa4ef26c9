"""Data sets with several tasks on the same input."""

from .digits import DIGITS_TASKS, Split, digits
from .task import Batch, Task
from .toy import TOY_STARTS, toy_losses

__all__ = ["DIGITS_TASKS", "TOY_STARTS", "Batch", "Split", "Task", "digits", "toy_losses"]

"""Data sets with several tasks on the same input."""

from .digits import DIGITS_TASKS, Split, digits
from .task import Batch, Task

__all__ = ["DIGITS_TASKS", "Batch", "Split", "Task", "digits"]

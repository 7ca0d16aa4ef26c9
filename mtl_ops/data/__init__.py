"""Data sets with several tasks, on the same input or on inputs of their own.

Embedded or generated ones are functions of a seed; those from a folder take the folder, and say in
one sentence (:class:`DataError`) which file is missing or broken, and where people get it.
"""

from .burgers import burgers_front, burgers_points
from .dense import Depth, Segmentation
from .digits import DIGITS_TASKS, Split, digits
from .folders import DataError
from .idx import mnist
from .loader import Loader, move
from .molecules import molecules, qm9
from .multi_digits import multi_digits
from .npy_folders import npy_folder
from .pictures import celeba, office
from .scenes import scenes
from .speech import Transcript, fsdd, spoken_digits
from .task import Batch, Goal, Task
from .text import ag_news, topics
from .toy import TOY_STARTS, toy_losses

__all__ = [
    "DIGITS_TASKS",
    "TOY_STARTS",
    "Batch",
    "DataError",
    "Depth",
    "Goal",
    "Loader",
    "Segmentation",
    "Split",
    "Task",
    "Transcript",
    "ag_news",
    "burgers_front",
    "burgers_points",
    "celeba",
    "digits",
    "fsdd",
    "mnist",
    "molecules",
    "move",
    "multi_digits",
    "npy_folder",
    "office",
    "qm9",
    "scenes",
    "spoken_digits",
    "topics",
    "toy_losses",
]

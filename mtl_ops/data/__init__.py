"""Data sets with several tasks, on the same input or on inputs of their own.

Embedded or generated ones are functions of a seed; those from a folder take the folder, and those of
another package find it where it is installed. All say in one sentence (:class:`DataError`) which file
is missing or broken, and where people get it.
"""

from .burgers import burgers_front, burgers_points
from .census import Records, census, census_parts
from .dense import Depth, Segmentation
from .digits import DIGITS_TASKS, Split, digits
from .folders import DataError
from .idx import mnist
from .loader import Loader, move
from .metrics import AbsoluteError, Label, Ranking, label_figures
from .mnist_5k import mnist_5k
from .molecules import molecules, qm9
from .multi_digits import multi_digits, multi_mnist
from .npy_folders import npy_folder
from .pictures import celeba, office
from .qm9_pack import QM9_TARGETS, Conformers, QM9Parts, qm9_parts
from .river_tables import solar_flare, yeast
from .scenes import scenes
from .speech import Transcript, fsdd, spoken_digits
from .task import Batch, Goal, Task
from .text import ag_news, topics
from .toy import TOY_STARTS, toy_losses

__all__ = [
    "DIGITS_TASKS",
    "QM9_TARGETS",
    "TOY_STARTS",
    "AbsoluteError",
    "Batch",
    "Conformers",
    "DataError",
    "Depth",
    "Goal",
    "Label",
    "Loader",
    "QM9Parts",
    "Ranking",
    "Records",
    "Segmentation",
    "Split",
    "Task",
    "Transcript",
    "ag_news",
    "burgers_front",
    "burgers_points",
    "celeba",
    "census",
    "census_parts",
    "digits",
    "fsdd",
    "label_figures",
    "mnist",
    "mnist_5k",
    "molecules",
    "move",
    "multi_digits",
    "multi_mnist",
    "npy_folder",
    "office",
    "qm9",
    "qm9_parts",
    "scenes",
    "solar_flare",
    "spoken_digits",
    "topics",
    "toy_losses",
    "yeast",
]

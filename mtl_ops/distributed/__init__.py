"""Merging over several processes: each merges a part of the gradient.

The mean of the processes' Gram matrices is not the Gram matrix of the mean gradient, so the task gradients have to be
summed over the processes *before* they are measured, whatever holds the parameters: every process (data parallel, as
with ``DistributedDataParallel``), or all of them together (``fully_shard``, and DTensors in general).
"""

from ..gradients.storage import is_dtensor
from ._checkpoint import TrainingState
from ._data_parallel import DataParallel
from ._make import Distributed, make_processes
from ._processes import Processes
from ._samples import Samples, read_samples
from ._scatter import Scatter
from ._settings import check_settings
from ._sharded import Sharded

__all__ = [
    "DataParallel",
    "Distributed",
    "Processes",
    "Samples",
    "Scatter",
    "Sharded",
    "TrainingState",
    "check_settings",
    "is_dtensor",
    "make_processes",
    "read_samples",
]

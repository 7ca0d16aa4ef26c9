"""Merges the gradients of many tasks at the cost of a sum.

:class:`MultiTaskOptimizer` wraps any ``torch.optim`` optimizer; :func:`backward` fills ``.grad`` for
those who keep their own; :func:`merge` merges a plain matrix of gradients; :func:`compare_steps` tries
each kind of step on a user's model. :mod:`mtl_ops.methods` holds the methods, :func:`cross_gram`
measures what some of them need, and :func:`build_info` says what was compiled.
"""

from . import methods
from ._build import BuildInfo, __version__, build_info
from .compare import StepCost, compare_steps
from .cross import cross_gram
from .functional import backward, merge
from .integrations.tensorboard import log_report
from .merging.report import Report
from .methods import Method
from .optim.optimizer import MultiTaskOptimizer

__all__ = [
    "BuildInfo",
    "Method",
    "MultiTaskOptimizer",
    "Report",
    "StepCost",
    "__version__",
    "backward",
    "build_info",
    "compare_steps",
    "cross_gram",
    "log_report",
    "merge",
    "methods",
]

"""The definition of every operator: plain PyTorch in float64, no cleverness.

Each function has the name and the arguments of its operator in ``torch.ops.mtl_ops``. It is what
the kernels are tested against, and what runs on devices without kernels and for more tasks than
the kernels take. A kernel that disagrees is wrong.
"""

from .gradients import gram, merge_
from .linear import solve_mean, solve_sum
from .scales import task_scales

__all__ = ["gram", "merge_", "solve_mean", "solve_sum", "task_scales"]

"""What a parameter costs in factors and in rows, in multiplications, and which of the two a step takes.

With R rows, a weight ``(p, q)`` and V fixed, G takes ``T R² p 5/8``, and in float64 ``R² q + R³/3 + T² R p``; the
merged gradient takes ``R p q``. T gradients take ``T R p q`` and their products ``T² p q``. Besides, each number of
what only one of the two has is written and read again, which takes as long as some tens of multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .products import Size

__all__ = ["BATCHED_ROWS", "SAVING", "Cost", "cost_of", "price_of_double", "wide"]

#: A step goes by factors if they save that part of it.
SAVING = 0.15
#: A batched backward pays on a CPU up to that many rows of all tasks together, and without factors up to half of it.
BATCHED_ROWS = 2048
#: To write a float32 and read it twice takes as long as that many multiplications.
_MOVED = 40.0
#: The part of a triangle's square that is multiplied.
_TRIANGLE = 0.625
#: A product in float64 takes as long as that many in float32.
_DOUBLE = 2.0
#: GPUs with float64 units in full number; on all others they are 1/32 or 1/64 of those of float32.
_FAST_DOUBLE = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
_SLOW_DOUBLE = 64.0


@dataclass(frozen=True)
class Cost:
    """Multiplications for one parameter.

    Attributes:
        factors: By factors.
        rows: By T gradients.
        step: Of a whole step with T gradients, forward and all.
        held: Numbers that are kept for each task, in units of the parameter's.
    """

    factors: float
    rows: float
    step: float
    held: float

    @property
    def saved(self) -> float:
        """What factors save; negative if they are dearer, or take more memory."""
        return self.rows - self.factors if self.held <= 1.0 else -1.0


def cost_of(sizes: Sequence[Size], numel: int, tasks: int, double: float) -> Cost:
    """Of one parameter that T tasks reach, with all its uses; ``double`` is the price of a product in float64."""
    rows = tasks * numel * (_MOVED + tasks)
    factors = numel * _MOVED / 3.0
    step = held = 0.0
    for size in sizes:
        elements = float(size.batch * size.rows * size.moving)
        product = elements * size.fixed  # a table has none: a backward only writes there
        held += elements / numel
        rows += tasks * product
        step += (2 * tasks + 1) * product
        factors += product + size.extra + tasks * elements * _MOVED
    for left in (True, False):
        # Of one side all rows of all uses count together.
        side = [size for size in sizes if size.left == left]
        if not side:
            continue
        count = sum(size.rows for size in side)
        fixed, moving = max(size.fixed for size in side), side[0].moving
        if fixed == 0:
            factors += tasks * count * moving * (1 + tasks)
        else:
            work = count**2 * (fixed + count / 3.0) + tasks**2 * count * moving
            factors += side[0].batch * (double * work + _TRIANGLE * tasks * count**2 * moving)
    left_rows, right_rows = (
        sum(size.rows for size in sizes if size.left == left) for left in (True, False)
    )
    if left_rows and right_rows:
        columns = sum(size.fixed + size.moving for size in (sizes[0], sizes[-1])) + tasks
        factors += double * left_rows * right_rows * tasks * columns
    return Cost(factors, rows, step + tasks * numel * _MOVED, held)


def price_of_double(param: torch.Tensor) -> float:
    """What a product in float64 costs where the parameter is, in products of its own."""
    if param.dtype == torch.float64:
        return 1.0
    if param.device.type != "cuda":
        return _DOUBLE
    fast = torch.cuda.get_device_capability(param.device) in _FAST_DOUBLE
    return _DOUBLE if fast else _SLOW_DOUBLE


def wide(sizes: Sequence[Size], tasks: int, rows: int) -> bool:
    """Whether a use has more rows than that, of all tasks together."""
    return max((size.batch * size.rows for size in sizes), default=0) * tasks > rows

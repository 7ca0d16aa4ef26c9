"""Dynamic weight average."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import integer, positive
from ._memory import keep, recall, recall_each
from ._registry import register

__all__ = ["DWA"]

_MEMORIES = (("means", (2,), torch.nan), ("sums", (), 0.0), ("counts", (), 0.0))


@register("dwa")
class DWA(LossMethod):
    """Dynamic weight average: more weight for tasks whose loss falls more slowly.

    With ``L_i(e)`` the mean loss of task i in epoch e, in epoch e

        ``w = T · softmax(r / τ)``,  ``r_i = L_i(e-1) / L_i(e-2)``,

    and ``w = 1`` in the first two epochs. The method cannot see where an epoch ends: call
    :meth:`end_epoch` there (``optimizer.method.end_epoch()``), or set ``window``. Without either,
    it never leaves its first epoch, and all weights stay 1.

    Guarantee: ``w > 0`` and ``Σw = T``.

    Args:
        temperature: τ; weights are more alike the larger it is.
        window: Calls that count as an epoch. LibMTL and TorchJD have true epochs, as the paper;
            nash-mtl compares means of 25 steps, and anew in every step.

    Memory: the mean losses of the last two epochs, sums and counts of the current one. The former
    can be handed in as ``previous`` ``(2, T)``, epoch ``e-2`` first; the memory is then neither
    used nor changed.

    Degenerate cases: a task that takes no part in a step has the weight 0, and the others' sum to
    their number; its mean is over the steps it took part in, and is that of the epoch before if it
    took part in none. A task without two means has ``r = 1``. A mean of 0 in epoch e-2 makes the
    weights NaN; that of a negative one has no meaning.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Shikun Liu, Edward Johns, Andrew J. Davison, "End-to-End Multi-Task Learning with Attention",
    CVPR 2019.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.DWA()
        >>> previous = torch.tensor([[1.0, 1.0], [1.0, 0.5]])
        >>> method.weights(None, torch.ones(2), previous=previous)
        tensor([1.1244, 0.8756], dtype=torch.float64)
    """

    state_names = ("means", "sums", "counts", "calls")

    def __init__(self, *, temperature: float = 2.0, window: int | None = None) -> None:
        self.temperature = positive("temperature", temperature)
        self.window = None if window is None else integer("window", window, 1)
        self.means: Tensor | None = None
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None
        self.calls: Tensor | None = None

    def weights(
        self, gram: Tensor | None, losses: Tensor | None = None, previous: Tensor | None = None
    ) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        window = self.window
        if previous is None:
            memory = self._memory(values.shape[0], values.device)
        elif previous.shape != (2, len(values)):
            raise ValueError(
                f"Parameter `previous` should have shape (2, {len(values)}). "
                f"Found shape {tuple(previous.shape)}."
            )
        else:
            means = previous.detach().to(values, copy=True)
            sums, counts = torch.zeros_like(means)
            calls = torch.zeros((), dtype=torch.int64, device=values.device)
            memory, window = (means.contiguous(), sums, counts, calls), None
        return ops.weigh_dwa(values, memory, temperature=self.temperature, window=window)

    def end_epoch(self) -> None:
        """Ends an epoch: the next weights compare it with the one before."""
        if self.calls is not None:
            assert self.sums is not None
            assert self.counts is not None
            assert self.means is not None
            mean = torch.where(self.counts > 0, self.sums / self.counts, self.means[1])
            keep(self, means=torch.stack([self.means[1], mean]))
            for one in (self.sums, self.counts, self.calls):
                one.zero_()

    def _memory(self, tasks: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean losses of the last two epochs, sums and counts of this one, and its calls."""
        means, sums, counts = recall_each(self, device, tasks, _MEMORIES)
        return means, sums, counts, recall(self, "calls", (), device, 0.0, torch.int64)

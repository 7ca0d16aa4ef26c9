"""FAMO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.capture import capturing
from ._base import LossMethod, check_losses
from ._checks import PerTask, finite, non_negative, positive
from ._memory import recall_each, saved
from ._registry import register

__all__ = ["FAMO"]

_MEMORIES = (("logits", (), 0.0), ("adam", (3,), 0.0), ("before", (), torch.nan))


@register("famo")
class FAMO(LossMethod):
    """Fast adaptive multitask optimization: lets all losses fall at the same rate, by losses alone.

    With logits ξ, ``z = softmax(ξ)`` and ``D_i = L_i - b_i + 1e-8``,

        ``w_i = c z_i / D_i``,  ``c = 1 / Σ_i (z_i / D_i)``.

    After the step, Adam takes ξ along ``(diag z - z zᵀ) δ + γ ξ`` with ``δ_i = log D_i(before) - log
    D_i(after)``, which takes weight from tasks that have improved more than others. For that the
    losses *of the same batch* are needed once more: call ``optimizer.observe(losses)`` after
    ``optimizer.step()``. If it is not called, the losses of the next backward serve instead. That
    costs no further evaluation, but the difference of two batches then adds to δ as noise.

    Guarantee: ``w > 0`` and ``Σw = 1``.

    Args:
        lr: Learning rate of Adam.
        weight_decay: γ. The paper's algorithm, LibMTL and TorchJD have 1e-3; the official code 1e-5
            or 1e-2 by experiment.
        min_losses: b, the least value of the losses: a number, or T numbers.

    Memory: ξ, Adam's moments, and the losses before the step.

    Degenerate cases: an absent task has the weight 0, and its ξ stays; ``Σw = 1`` over the others.
    Where ``D_i`` is not positive there is no logarithm: all weights become NaN, and ξ stays.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Bo Liu, Yihao Feng, Peter Stone, Qiang Liu, "FAMO: Fast Adaptive Multitask Optimization",
    NeurIPS 2023.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.FAMO()
        >>> method.weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.7500, 0.2500], dtype=torch.float64)
        >>> method.observe(torch.tensor([0.5, 3.0]))  # the first has improved, the second has not
        >>> method.weights(None, torch.tensor([1.0, 3.0]))
        tensor([0.7405, 0.2595], dtype=torch.float64)
    """

    observes = True
    state_names = ("logits", "adam", "before")

    def __init__(
        self,
        *,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
        min_losses: float | Sequence[float] | Tensor = 0.0,
    ) -> None:
        self.lr = positive("lr", lr)
        self.weight_decay = non_negative("weight_decay", weight_decay)
        self.min_losses = (
            finite("min_losses", min_losses)
            if isinstance(min_losses, (int, float))
            else PerTask("min_losses", min_losses)
        )
        self.logits: Tensor | None = None
        self.adam: Tensor | None = None
        self.before: Tensor | None = None
        self._owed = False  # a step whose losses were not seen once more
        self._replayed = False  # graphs take steps that nobody sees

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        replayed = self._replayed or capturing()
        weights = self._weigh(values, self._owed or replayed, after=False)
        self._owed, self._replayed = True, replayed
        return weights

    def observe(self, losses: Tensor) -> None:
        """Takes one step of Adam on ξ.

        Args:
            losses: ``(T,)``, after the step, of the batch that the last weights were for; NaN for a
                task that is absent.

        Raises:
            ValueError: If no weights were asked for since the last call.
        """
        after = check_losses(losses, self.name)
        if not (self._owed or self._replayed):
            raise ValueError(
                "Parameter `losses` should be those after a step: `observe` should follow a backward "
                "each time. Found none before."
            )
        if self.before is not None:
            after = after.to(self.before.device)
        self._weigh(after, improve=True, after=True)
        self._owed = False

    def _weigh(self, losses: Tensor, improve: bool, after: bool) -> Tensor:
        """Weights for the losses, or for those after a step; if ``improve``, a step of Adam before."""
        tasks, device = losses.shape[0], losses.device
        least, numbers = self.min_losses, None
        if isinstance(least, PerTask):
            numbers = least.on(device, tasks)
        elif least != 0.0:
            numbers = torch.full_like(losses, least)
        logits, adam, before = recall_each(self, device, tasks, _MEMORIES)
        return ops.weigh_famo(
            losses,
            (logits, adam, before),
            least=numbers,
            lr=self.lr,
            weight_decay=self.weight_decay,
            improve=improve,
            after=after,
        )

    def state_dict(self) -> dict[str, Any]:
        """The method's memory; no losses if they were seen once more."""
        return {**super().state_dict(), "before": saved(self, "before") if self._owed else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._owed = state["before"] is not None

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
        super().reset()
        self._owed = False

"""ReLoBRaLo."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import closed_share, one_of, positive
from ._memory import recall_each
from ._registry import register

__all__ = ["ReLoBRaLo"]

_MEMORIES = (("balance", (), 1.0), ("initial", (), torch.nan), ("previous", (), torch.nan))


@register("relobralo")
class ReLoBRaLo(LossMethod):
    """Relative loss balancing with random look-back: more weight for losses that have fallen less.

    With ``b(s) = T · softmax(L / (τ L(s)))``, relative to the losses of an earlier call s, w = 1 in the first call and

        ``w ← α (r w + (1 - r) b(0)) + (1 - α) b(t-1)``,  ``r`` is 1 with probability ρ, or else 0,

    in every other: mostly an average over the steps, and now and then a look back to the first one.

    Guarantees: ``w ≥ 0``, and ``Σw = T`` if no task was ever absent. Multiplying a loss by a number (in all calls)
    changes nothing.

    Args:
        alpha: α, in [0, 1].
        rho: ρ, in [0, 1]. The official command's default is 1, which never looks back; the paper recommends values
            close to 1 (from memory: 0.999). PhysicsNeMo has 0.99, with α = 0.95.
        temperature: τ; weights are more alike the larger it is. The paper prefers 0.1 (from memory).

    Memory: w, ``L(0)`` and ``L(t-1)``. Random numbers come from ``generator``, or r can be handed in as ``keep``,
    which is 0 or 1.

    Degenerate cases: a task that takes no part has the weight 0 and keeps its memory; b is over the others, and its
    sum is their number. A task that comes for the first time has the weight 1, and takes part in b from its second
    time on. Relative to a loss of 0, every loss is 1. A negative loss makes all weights NaN, and nothing is
    remembered then.

    Where others differ: the official code takes ``L(0)`` from the second step, and makes the first one relative to
    losses of 1. It and PhysicsNeMo add 1e-12 and 1e-8 to the losses that they divide by, which hides the ratio of
    smaller ones.

    Raises:
        ValueError: If a parameter is out of range, or the number of tasks changes.
        TypeError: If a parameter is of the wrong type, or there are no losses.

    Rafael Bischof, Michael A. Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning",
    arXiv 2110.09813, 2021.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.ReLoBRaLo(alpha=0.0)
        >>> method.weights(None, torch.tensor([2.0, 1.0]))
        tensor([1., 1.], dtype=torch.float64)
        >>> method.weights(None, torch.tensor([1.0, 1.0]))  # the second has not fallen
        tensor([0.7551, 1.2449], dtype=torch.float64)
    """

    state_names = ("balance", "initial", "previous")

    def __init__(
        self, *, alpha: float = 0.999, rho: float = 0.99, temperature: float = 1.0
    ) -> None:
        self.alpha = closed_share("alpha", alpha)
        self.rho = closed_share("rho", rho)
        self.temperature = positive("temperature", temperature)
        self.balance: Tensor | None = None
        self.initial: Tensor | None = None
        self.previous: Tensor | None = None

    def weights(
        self, gram: Tensor | None, losses: Tensor | None = None, keep: int | None = None
    ) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        device, tasks = values.device, values.shape[0]
        balance, initial, previous = recall_each(self, device, tasks, _MEMORIES)
        return ops.weigh_relobralo(
            values,
            (balance, initial, previous),
            drawn=self._draw(values, keep),
            alpha=self.alpha,
            rho=self.rho,
            temperature=self.temperature,
        )

    def _draw(self, like: Tensor, keep: int | None) -> Tensor:
        """A number below ρ, 0-d, if r is 1."""
        if keep is not None:
            return like.new_full((), -torch.inf if one_of("keep", keep, (0, 1)) else torch.inf)
        return torch.rand((), generator=self.generator, dtype=like.dtype, device=like.device)

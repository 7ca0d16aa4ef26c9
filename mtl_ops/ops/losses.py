"""Methods that need no gradient: losses ``(T,)`` to weights ``(T,)``, in one operator each.

A task whose loss is not finite takes no part and has the weight 0. All tensors are contiguous float64, where nothing
else is said; what a method remembers is changed in place.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from .operator import Operator

__all__ = [
    "weigh_dwa",
    "weigh_famo",
    "weigh_geometric",
    "weigh_ldc_mtl",
    "weigh_log_scales",
    "weigh_relobralo",
    "weigh_softadapt",
    "weigh_stch",
]


def _weights_like(losses: Tensor, *args: Any) -> Tensor:
    return losses.new_empty(losses.shape)


def _two_rows_like(losses: Tensor, *args: Any) -> Tensor:
    return losses.new_empty((2, *losses.shape))


class Weighing(Operator):
    """An operator ``weigh_*``."""

    def __call__(self, losses: Tensor, *args: Any) -> Tensor:
        # not `len(losses)`, which is a function of Python
        weights: Tensor = self.on(losses.device.type, losses.shape[0])(losses, *args)
        return weights


_weigh_famo = Weighing("weigh_famo", _weights_like)
_weigh_dwa = Weighing("weigh_dwa", _weights_like)
_weigh_geometric = Weighing("weigh_geometric", _weights_like)
_weigh_stch = Weighing("weigh_stch", _weights_like)
_weigh_softadapt = Weighing("weigh_softadapt", _weights_like)
_weigh_relobralo = Weighing("weigh_relobralo", _weights_like)
_weigh_ldc_mtl = Weighing("weigh_ldc_mtl", _two_rows_like)
_weigh_log_scales = Weighing("weigh_log_scales", _two_rows_like)


def weigh_famo(
    losses: Tensor,
    memory: tuple[Tensor, Tensor, Tensor],
    *,
    least: Tensor | None = None,
    lr: float,
    weight_decay: float,
    improve: bool,
    after: bool,
) -> Tensor:
    """Weights for which all losses fall at one rate, from logits that Adam takes along.

    ``memory`` is the logits ``(T,)``, Adam's state ``(3, T)``, and the losses ``(T,)`` of the call before, NaN for
    none. If ``improve``, a step is taken to what they have become; ``after`` says that ``losses`` are those after
    a step, from which no further one starts.
    """
    return _weigh_famo(losses, *memory, least, lr, weight_decay, improve, after)


def weigh_dwa(
    losses: Tensor,
    memory: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    temperature: float,
    window: int | None,
) -> Tensor:
    """``w = k softmax(r/τ)``, r the mean losses of the last epoch over those of the one before.

    ``memory`` is these means ``(2, T)``, sums and counts ``(T,)`` of this epoch, and its calls () int64.
    """
    return _weigh_dwa(losses, *memory, temperature, window or 0)


def weigh_geometric(losses: Tensor) -> Tensor:
    """``w_i = M / (k L_i)``, M the geometric mean of k losses."""
    return _weigh_geometric(losses)


def weigh_stch(
    losses: Tensor,
    *,
    preference: Tensor | None,
    reference: Tensor | None,
    mu: float,
    logarithmic: bool,
) -> Tensor:
    """The derivatives of a smooth maximum of ``λ (L - z)``, or of ``λ log(L/z)``."""
    return _weigh_stch(losses, preference, reference, mu, logarithmic)


def weigh_softadapt(
    losses: Tensor,
    recent: Tensor,
    *,
    beta: float,
    variant: Literal["original", "normalised", "loss_weighted"],
) -> Tensor:
    """``w = softmax(β s)``, s the slopes of the losses by their backward difference.

    ``recent`` ``(order + 1, T)`` are the last losses, oldest first, NaN for none.
    """
    number = ("original", "normalised", "loss_weighted").index(variant)
    return _weigh_softadapt(losses, recent, beta, number, len(recent) - 1)


def weigh_relobralo(
    losses: Tensor,
    memory: tuple[Tensor, Tensor, Tensor],
    *,
    drawn: Tensor,
    alpha: float,
    rho: float,
    temperature: float,
) -> Tensor:
    """``w = α (w or b(initial)) + (1 - α) b(previous)``, ``b(x) = k softmax(L / x / τ)`` of k tasks.

    ``memory`` ``(T,)`` each is w, and the first and the last losses, NaN for none; ``drawn`` () float64 keeps w where
    it is below ρ.
    """
    return _weigh_relobralo(losses, *memory, drawn, alpha, rho, temperature)


def weigh_ldc_mtl(losses: Tensor, scales: Tensor, *, initial: Tensor | None, lam: float) -> Tensor:
    """``(2, T)``: derivatives of ``Σ v y / Σv + λ Σ |v_i y_i - v_j y_j|``, ``v = sigmoid(s)``, by L and by s.

    With ``initial`` ``(T,)``, the first losses, y is ``log(L / initial)``; without, L.
    """
    return _weigh_ldc_mtl(losses, scales, initial, lam)


def weigh_log_scales(losses: Tensor, scales: Tensor, *, factor: float, rate: float) -> Tensor:
    """``(2, T)``: derivatives of ``Σ_i a e^(r s_i) L_i - a r s_i`` by L, which are the weights, and by s."""
    return _weigh_log_scales(losses, scales, factor, rate)

"""Weights that the optimizer learns along with the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from .. import ops
from ._base import LossMethod, check_losses
from ._checks import finite

__all__ = ["LearnableMethod", "LogScales", "OneOperator"]


class LearnableMethod(LossMethod):
    """A loss of the form ``Σ_i f(s_i, L_i)`` with one number s_i for each task to be learned.

    ``MultiTaskOptimizer`` gives s to the inner optimizer as a parameter group of its own, the last
    one, without weight decay; change ``param_groups[-1]["lr"]`` if s should learn faster than the
    model. The group is there from the start if the tasks are known: pass ``tasks=``. Otherwise it
    comes with the first backward, which raises an error if a scheduler was made before. Clipping
    and ``task_weights`` are for the gradients of the model, and leave those of s alone.

    Without such an optimizer (``mtl_ops.merge``, ``mtl_ops.backward``) the weights are those of the
    s there is. To train it, hand ``learnable(T, device)`` to an optimizer of yours:
    ``mtl_ops.backward`` fills the gradients.

    Attributes:
        init: The value of s at first.
        learned: s, ``(T,)`` float32; ``None`` before the number of tasks is known.
    """

    learns = True
    state_names = ("learned",)

    def __init__(self, *, init: float = 0.0) -> None:
        self.init = finite("init", init)
        self.learned: Parameter | None = None

    @abstractmethod
    def weigh(self, s: Tensor) -> Tensor:
        """``w_i = ∂f/∂L_i``, ``(T,)`` float64 each."""

    @abstractmethod
    def slope(self, s: Tensor, losses: Tensor) -> Tensor:
        """``∂f/∂s_i``, ``(T,)`` float64 each."""

    def learnable(self, tasks: int, device: torch.device) -> list[Parameter]:
        """s, which is made by the first call.

        Raises:
            ValueError: If it was made for another number of tasks.
        """
        if self.learned is None:
            self.learned = Parameter(torch.full((tasks,), self.init, device=device).float())
        if self.learned.shape[0] != tasks:
            raise ValueError(
                f"Method {self.name!r} should be used for the {len(self.learned)} tasks whose "
                f"weights it learns. Found {tasks}."
            )
        return [self.learned]

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        values = check_losses(losses, self.name)
        return torch.where(values.isfinite(), self.weigh(self._current(values)), 0.0)

    def add_grads(self, losses: Tensor, grad_scale: Tensor | None = None) -> None:
        """Adds ``∂f/∂s`` to the gradient of s; 0 for a task that takes no part."""
        slope = self._slopes(losses)
        if grad_scale is not None:
            slope = slope * grad_scale
        (s,) = self.learnable(losses.shape[0], losses.device)
        slope = slope.to(s)
        s.grad = slope if s.grad is None else s.grad + slope

    def _slopes(self, losses: Tensor) -> Tensor:
        """``∂f/∂s`` ``(T,)`` float64, 0 for a task that takes no part."""
        return torch.where(losses.isfinite(), self.slope(self._current(losses), losses), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The method's memory."""
        return {"learned": None if self.learned is None else self.learned.detach()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, into the parameter that the optimizer knows."""
        self._check_state(state)
        saved, known = state["learned"], self.learned
        if saved is None:
            self.reset()
            return
        (s,) = self.learnable(len(saved), saved.device if known is None else known.device)
        with torch.no_grad():
            s.copy_(saved)

    def reset(self) -> None:
        """Sets s back to ``init``."""
        if self.learned is not None:
            with torch.no_grad():
                self.learned.fill_(self.init)

    def _current(self, losses: Tensor) -> Tensor:
        (s,) = self.learnable(losses.shape[0], losses.device)
        return s.detach().to(losses)


class OneOperator(LearnableMethod):
    """One whose weights and slopes are computed by one operator, once a step."""

    #: The last losses, s and its version, and the slopes: what comes after the backward takes them from here.
    _last: tuple[Tensor, Parameter, int, Tensor] | None = None

    @abstractmethod
    def _derivatives(self, s: Tensor, losses: Tensor) -> Tensor:
        """``(2, T)``: ``∂f/∂L`` and ``∂f/∂s``, 0 for a task that takes no part."""

    def _weights(self, losses: Tensor) -> Tensor:
        weights, slopes = self._derivatives(self._current(losses), losses).unbind()
        s = self.learned
        assert s is not None
        self._last = losses, s, s._version, slopes
        return weights

    def _slopes(self, losses: Tensor) -> Tensor:
        last, self._last = self._last, None
        if last is not None:
            seen, s, version, slopes = last
            if seen is losses and s is self.learned and s._version == version:
                return slopes
        return self._derivatives(self._current(losses), losses)[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_last": None}


class LogScales(OneOperator):
    """One with ``f(s, L) = a e^(r s) L - a r s``."""

    factor: ClassVar[float]
    rate: ClassVar[float]

    def weigh(self, s: Tensor) -> Tensor:
        return self.factor * (self.rate * s).exp()

    def slope(self, s: Tensor, losses: Tensor) -> Tensor:
        return self.rate * (self.weigh(s) * losses - self.factor)

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` float64."""
        return self._weights(check_losses(losses, self.name))

    def _derivatives(self, s: Tensor, losses: Tensor) -> Tensor:
        return ops.weigh_log_scales(losses, s, factor=self.factor, rate=self.rate)

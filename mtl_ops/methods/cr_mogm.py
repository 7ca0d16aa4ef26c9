"""CR-MOGM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from ._base import Method, check_gram
from ._checks import share
from ._memory import forget, keep, recall, restore, saved
from ._over import OverAnother
from ._registry import register, resolve

__all__ = ["CRMOGM"]


@register("cr_mogm")
class CRMOGM(OverAnother):
    """Correlation-reduced multi-objective gradient manipulation: smooths another method's weights.

    With ŵ the other method's weights, ``w <- α w + (1 - α) ŵ``; the first time, ``w = ŵ``. In each
    step ŵ depends on the gradients it is multiplied with, which makes their product biased; w hardly
    does.

    Guarantees: what the other method promises of its weights alone (that they are not negative, or
    that they sum to 1), and no more.

    Args:
        method: The other method, a name or an instance: one that finds its weights from the Gram
            matrix or from the losses.
        alpha: α.

    Memory: w of each task, and the other method's. A task that takes no part in a step keeps its
    w. Clip factors and ``task_weights`` are not part of w: they are multiplied with it afterwards.

    Degenerate cases: if ŵ is not finite, so is the answer, and w stays.

    Raises:
        ValueError: If ``alpha`` is out of range, or the method has no weights of single gradients.
        TypeError: If a parameter is of the wrong type.

    Shiji Zhou, Wenpeng Zhang, Jiyan Jiang, Wenliang Zhong, Jinjie Gu, Wenwu Zhu, "On the Convergence
    of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.CRMOGM(method=mtl_ops.methods.Constant(weights=[1.0, 3.0]))
        >>> method.weights(None, torch.ones(2))
        tensor([1., 3.], dtype=torch.float64)
        >>> method.method = mtl_ops.methods.Constant(weights=[2.0, 3.0])
        >>> method.weights(None, torch.ones(2))
        tensor([1.1000, 3.0000], dtype=torch.float64)
    """

    def __init__(self, *, method: str | Method, alpha: float = 0.9) -> None:
        self.method = resolve(method)
        self.alpha = share("alpha", alpha)
        if self.method.needs == "coordinates" or self.method.tracks:
            raise ValueError(
                "Parameter `method` should find weights from the Gram matrix or the losses alone. "
                f"Found {self.method.name!r}."
            )
        self.smooth: Tensor | None = None

    @property
    def needs(self) -> Literal["gram", "losses", "coordinates"]:  # type: ignore[override]
        """As the other method."""
        return self.method.needs

    @property
    def learns(self) -> bool:  # type: ignore[override]
        """As the other method."""
        return self.method.learns

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """As the other method."""
        return self.method.observes

    def learnable(self, tasks: int, device: torch.device) -> list[Parameter]:
        """The other method's."""
        return self.method.learnable(tasks, device)

    def add_grads(self, losses: Tensor, grad_scale: Tensor | None = None) -> None:
        """To the other method's parameters."""
        self.method.add_grads(losses, grad_scale)

    def observe(self, losses: Tensor) -> None:
        """Shows the other method the losses after the step."""
        self.method.observe(losses)

    # The weights.

    def weights(self, gram: Tensor | None, losses: Tensor | None = None, **given: Any) -> Tensor:
        """Smoothed weights, of the shape of the other method's; ``given`` is for the latter."""
        if self.needs == "losses":
            fresh = self.method.weights(gram, losses, **given)
            part = torch.ones_like(fresh) if losses is None else losses.isfinite()
            return self._smooth(fresh, part != 0)
        matrices = check_gram(gram)
        stacked = matrices.reshape(-1, *matrices.shape[-2:])
        scale = torch.ones_like(stacked[..., 0])
        return self.solve(stacked, scale, losses, **given).reshape(matrices.shape[:-1])

    def solve(self, gram: Tensor, scale: Tensor, losses: Tensor | None, **given: Any) -> Tensor:
        """See :meth:`Method.solve`."""
        part = scale != 0
        fresh = self.method.solve(gram, scale, losses, **given)
        weights = self._smooth(torch.where(part, fresh / scale, 0.0), part)
        return torch.where(part, scale * weights, 0.0)

    def _smooth(self, fresh: Tensor, part: Tensor) -> Tensor:
        """The new w where a task takes part, else 0."""
        shape = tuple(fresh.shape)
        smooth = recall(self, "smooth", shape, fresh.device, torch.nan)
        usable = torch.where(part, fresh, 0.0).isfinite().all()
        mixed = self.alpha * smooth + (1.0 - self.alpha) * fresh
        new = torch.where(smooth.isnan(), fresh, mixed)
        keep(self, smooth=torch.where(part & usable, new, smooth))
        return torch.where(part, torch.where(usable, new, torch.nan), 0.0)

    # Its memory.

    def state_dict(self) -> dict[str, Any]:
        """The method's memory, with the other method's in it."""
        return {
            "smooth": saved(self, "smooth"),
            "method": self.method.name,
            "method_state": self.method.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            ValueError: If ``state`` is not of this method, or of another one in it.
        """
        self._check_state(state)
        if state["method"] != self.method.name:
            raise ValueError(
                f"Parameter `state` should be of method {self.method.name!r} smoothed. "
                f"Found {state['method']!r}."
            )
        self.method.load_state_dict(state["method_state"])
        restore(self, "smooth", state["smooth"])

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
        forget(self, "smooth")
        self.method.reset()

    def __repr__(self) -> str:
        return f"CRMOGM(method={self.method!r}, alpha={self.alpha!r})"

"""What a method is: from the Gram matrix and the losses to the weights of the tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from ._memory import forget, restore, saved

__all__ = ["CoordinateMethod", "LossMethod", "Method", "NativeMethod", "check_gram", "check_losses"]


class Method(ABC):
    """A rule that weighs T tasks; derive from it and override :meth:`weights` to add your own.

    A method is a function of T×T and of T numbers: it never sees a gradient. Whatever it remembers
    from call to call goes into attributes named in :attr:`state_names`.

    Attributes:
        needs: What the weights depend on: ``"gram"`` (one backward for each task), or ``"losses"``
            (one backward for all).
        uses_losses: Whether :meth:`weights` looks at the losses; they are not gathered otherwise.
        learns: Whether it has parameters that the optimizer learns, see :meth:`learnable`.
        observes: Whether it has a use for the losses after the step, see :meth:`observe`.
        segmentwise: Whether sets of parameters may be weighed in several calls, a part of the S sets in
            each: it neither draws nor remembers anything, and sets do not depend on each other. With
            ``memory="stream"`` it then saves a backward.
        uses_rounding: Whether :meth:`solve` takes ``rounding``, the share of ``√(G_ii G_jj)`` by which
            ``G_ij`` may be off; see :func:`mtl_ops.ops.rounding_of`.
        tracks: Whether it is shown the gradients themselves, see ``TrackingMethod``.
        state_names: Attributes that are the method's memory: tensors, numbers, or ``None`` before
            the first call. A tensor that a captured CUDA graph is to find again has to stay where it is:
            write to it in place, as ``self.mean.copy_(new)`` does.
        generator: Where random numbers come from; ``None`` for the device's default generator.

    Example:
        >>> import torch, mtl_ops
        >>> @mtl_ops.methods.register("inverse_norm")
        ... class InverseNorm(mtl_ops.methods.Method):
        ...     def weights(self, gram, losses=None):
        ...         return gram.diagonal(dim1=-2, dim2=-1).rsqrt()
        >>> mtl_ops.merge(torch.tensor([[3.0, 0.0], [0.0, 0.5]]), "inverse_norm")
        tensor([1., 1.])
        >>> mtl_ops.methods.unregister("inverse_norm")
    """

    name: ClassVar[str] = ""
    needs: Literal["gram", "losses", "coordinates"] = "gram"
    state_names: ClassVar[tuple[str, ...]] = ()
    uses_losses: bool = True
    learns: bool = False
    observes: bool = False
    segmentwise: bool = False
    uses_rounding: bool = False
    tracks: bool = False
    generator: torch.Generator | None = None

    @abstractmethod
    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """Weights w of the tasks; the merged gradient is ``Σ_t w_t g_t``.

        Args:
            gram: ``(T, T)`` or ``(S, T, T)`` float64, inner products of the task gradients in each
                of S sets of parameters.
            losses: ``(T,)``, or ``None`` if the caller has none.

        Returns:
            float64, ``gram``'s shape without its last dimension.
        """

    def solve(self, gram: Tensor, scale: Tensor, losses: Tensor | None) -> Tensor:
        """Weights of scaled tasks, ``s ∘ weights(s G s)``.

        A task of scale 0 takes no part: it has a row and column of zeros in what :meth:`weights`
        gets, a NaN among the losses, and weight 0 in the end.

        Args:
            gram: ``(S, T, T)`` float64.
            scale: ``(S, T)`` float64.
            losses: ``(T,)`` or ``None``.

        Returns:
            ``(S, T)`` float64.
        """
        part = scale != 0
        both = part.unsqueeze(2) & part.unsqueeze(1)
        scaled = torch.where(both, scale.unsqueeze(2) * gram * scale.unsqueeze(1), 0.0)
        if losses is not None:
            losses = torch.where(part.any(dim=0), losses, torch.nan)
        return torch.where(part, scale * self.weights(scaled, losses), 0.0)

    def numbers(self, losses: Sequence[float]) -> list[float] | None:
        """As :meth:`weights`, of losses that are finite and known as numbers; ``None`` to be asked for a tensor.

        To be overridden where T numbers need no operator, which costs what it costs to be called.
        """
        return None

    def scale_heads(self, scale: Tensor, losses: Tensor | None) -> Tensor:
        """Factors of the gradients of what one task alone reaches, such as its head; by default ``scale``.

        Args:
            scale: ``(S, T)`` float64, weights of tasks and clip factors.
            losses: ``(T,)`` or ``None``.

        Returns:
            ``(S, T)`` float64; 0 where ``scale`` is.
        """
        return scale

    def learnable(self, tasks: int, device: torch.device) -> list[Parameter]:
        """Parameters of the method's own, for T tasks; always the same ones. By default none.

        ``MultiTaskOptimizer`` adds them to the inner optimizer as a group.
        """
        return []

    def add_grads(self, losses: Tensor, grad_scale: Tensor | None = None) -> None:
        """Adds the derivatives by the method's own parameters to their ``.grad``.

        Called after each backward if :attr:`learns`.

        Args:
            losses: ``(T,)`` float64; NaN for a task that takes no part.
            grad_scale: A 0-d factor of all gradients, that of a ``GradScaler``; ``None`` for 1.

        Raises:
            TypeError: If it learns nothing.
        """
        raise TypeError(f"Method {self.name!r} learns nothing.")

    def observe(self, losses: Tensor) -> None:
        """Takes note of the losses ``(T,)`` after the step; NaN for a task that is absent.

        Raises:
            TypeError: If the method has no use for them.
        """
        raise TypeError(f"Method {self.name!r} has no use for losses after the step.")

    def state_dict(self) -> dict[str, Any]:
        """The method's memory, in types that ``torch.load(weights_only=True)`` reads."""
        return {name: saved(self, name) for name in self.state_names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, in place where shapes are the same.

        Raises:
            ValueError: If ``state`` is not of this method.
        """
        self._check_state(state)
        for name, value in state.items():
            restore(self, name, value)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        names = sorted(self.state_dict())
        if sorted(state) != names:
            raise ValueError(
                f"Parameter `state` should hold {names} for method {self.name!r}. "
                f"Found {sorted(state)}."
            )

    def __getstate__(self) -> dict[str, Any]:
        # A generator has no copy of its own; who gave it to the method gives it to the copy, too.
        return {name: value for name, value in vars(self).items() if name != "generator"}

    def reset(self) -> None:
        """Forgets everything, as if newly made; its tensors stay where they are, with what they held at first."""
        for name in self.state_names:
            forget(self, name)

    def __repr__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if k not in self.state_names and k[0] != "_"}
        shown.pop("generator", None)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class NativeMethod(Method):
    """A Gram method with a solver that leaves tasks out by itself: override :meth:`solve`."""

    uses_losses: bool = False

    def weights(self, gram: Tensor | None, losses: Tensor | None = None, **given: Any) -> Tensor:
        """See :meth:`Method.weights`; ``given`` hands in what is otherwise drawn or remembered."""
        matrices = check_gram(gram)
        solved = self.solve(matrices.reshape(-1, *matrices.shape[-2:]), None, losses, **given)
        return solved.reshape(matrices.shape[:-1])

    @abstractmethod
    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        """See :meth:`Method.solve`; without ``scale`` all tasks take part as they are."""


class LossMethod(Method):
    """A method that needs no gradient to find its weights: override :meth:`weights`.

    A task whose loss is NaN or infinite takes no part and has weight 0. The losses are those that
    the user handed in; weights of tasks are factors of what the method answers.
    """

    needs: Literal["gram", "losses", "coordinates"] = "losses"

    @abstractmethod
    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """``(T,)`` weights from ``(T,)`` losses; ``gram`` is not used."""


class CoordinateMethod(Method):
    """A method that looks at single coordinates of the gradients: it merges them by itself."""

    needs: Literal["gram", "losses", "coordinates"] = "coordinates"
    #: Whether :meth:`merge_` takes ``first``, the numbers of the tensors' first elements: what it draws
    #: for an element depends on the element's number alone. See :class:`mtl_ops.methods.GradDrop`.
    draws: ClassVar[bool] = False

    def weights(self, gram: Tensor | None, losses: Tensor | None = None) -> Tensor:
        """Such a method has no weights.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"Method {self.name!r} works on single coordinates and has no task weights; "
            "use `mtl_ops.merge`."
        )

    @abstractmethod
    def merge_(
        self,
        out: Sequence[Tensor],
        rows: Sequence[Tensor | None],
        scale: Tensor,
        segments: Sequence[int],
        clip_value: float | None,
        accumulate: bool,
    ) -> Tensor:
        """Writes the merged gradient, and returns its squared norm, a 0-d float64 tensor.

        Arguments as of :func:`mtl_ops.ops.merge_`; ``scale`` ``(S, T)`` as of
        :func:`mtl_ops.ops.task_scales`.
        """


def check_gram(gram: Tensor | None) -> Tensor:
    """The Gram matrix as float64, ``(T, T)`` or ``(S, T, T)``."""
    if not isinstance(gram, Tensor):
        raise TypeError(f"Parameter `gram` should be a tensor. Found {type(gram).__name__}.")
    if gram.dim() not in (2, 3) or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] == 0:
        raise ValueError(
            "Parameter `gram` should have shape (T, T) or (S, T, T). "
            f"Found shape {tuple(gram.shape)}."
        )
    return gram.detach().to(torch.float64).contiguous()


def check_losses(losses: Tensor | None, method: str) -> Tensor:
    """The losses as ``(T,)`` float64."""
    if not isinstance(losses, Tensor):
        raise TypeError(
            f"Method {method!r} needs the losses: parameter `losses` should be a tensor. "
            f"Found {type(losses).__name__}."
        )
    if losses.dim() != 1:
        raise ValueError(
            f"Parameter `losses` should have shape (T,). Found shape {tuple(losses.shape)}."
        )
    if losses.dtype == torch.float64 and not losses.requires_grad:
        return losses.contiguous()
    return losses.detach().to(torch.float64).contiguous()

"""Momentum: any Gram method on averages of the gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from ._base import Method, NativeMethod
from ._checks import one_of, positive, share
from ._memory import recall, untouched
from ._over import OverAnother
from ._registry import register, resolve
from ._tracking import Remembering

__all__ = ["Averages", "Momentum"]


@register("momentum")
class Momentum(OverAnother, Remembering):  # type: ignore[override]
    """Momentum before the merge: another method weighs averages of the gradients, of which some are fresh.

    A task whose gradient came in this step, for the t-th time, moves its average; then the averages of all tasks
    that have one are weighed and merged:

        ``m_i <- m_i + (1 - β)/(1 - β^t) (g_i - m_i)``,  ``w = method(m mᵀ)``,  ``d = mᵀ w``.

    That is ``M_i/(1 - β^t)`` with ``M_i <- β M_i + (1 - β) g_i``, the first moment of Adam. So not every task needs a
    gradient in every step: with ``MultiTaskOptimizer(..., fresh=1)`` a step takes one backward whatever T is, each
    time of another task. With method ``"config"``, ``second="pseudo_adam"`` and ``before="wait"`` this is M-ConFIG.

    **It is a momentum, not an approximation of the step** that its method takes on the gradients of one batch: its
    averages are of the last ``T/(1 - β)`` steps with ``fresh=1``, and point elsewhere: 60° from it in the network of
    the digits tutorial (T = 4), where steps of two batches in a row are 45° apart; the tutorial measures it. With
    ``fresh=1`` it takes 1.4 to 1.6 plain steps on an MLP of 8 layers of 1,024 at T = 8 (batches of 256 and 64; 1.3 to
    1.4 with averages in bfloat16), where its method on all gradients takes 6.
    **Memory of J's size:** m, T gradients of all parameters, in float32 or ``grad_dtype``; a step reads it twice, to
    measure and to merge. In a single process only.

    Parameters that one task alone reaches get that task's average, so that they move in every step, too.

    Guarantees: with ``beta=0`` and all tasks fresh it is the method itself; with constant gradients, too, as soon as
    each task was fresh once. Whatever the method promises (equal cosines, no conflict) holds for the averages.

    Args:
        method: What weighs the averages, a name or an instance: one that looks at their inner products.
        beta: β, in [0, 1).
        second: ``"none"``; or ``"pseudo_adam"``: the merged ``d`` of the k-th step is taken for the corrected first
            moment of Adam, the gradient ``p`` that would have led to it gives the second, and d is divided by its
            root: ``f = (1 - β^k) d``, ``p = (f - β f_before)/(1 - β)``, ``s <- β₂ s + (1 - β₂) p²``,
            ``d <- d/(√(s/(1 - β₂^k)) + ε)``. It is a step of Adam by itself: use it with SGD. Two numbers more are
            remembered for each parameter, and what ``max_norm`` would clip does not exist.
        beta2: β₂, in [0, 1).
        eps: ε.
        before: Until each task was fresh once: ``"present"`` merges those that were; ``"wait"`` answers 0, as
            M-ConFIG does.

    Weights of tasks, clips and losses: a gradient enters its average times its task's weight, and clipped. A task of
    weight 0 is left out as long as its weight is 0. A method that looks at losses is shown the last known of each task.
    ``report.gram``, ``report.norms`` and ``report.weights`` are of the averages.

    Degenerate cases: a task that is absent from a batch is not fresh: its average stays, *and stays in the merge*.
    So does one whose gradient is not finite; if no fresh gradient is finite (or if one is not, but for
    ``nonfinite="skip_task"``), nothing is remembered, and the answer is NaN.

    Raises:
        ValueError: If a parameter is out of range, the method does not weigh gradients by their inner products, or
            tasks or parameters change.
        TypeError: If a parameter is of the wrong type.

    Qiang Liu, Mengyu Chu, Nils Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.Momentum(method="sum", beta=0.5)
        >>> mtl_ops.merge(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), method)
        tensor([3., 2.])
        >>> mtl_ops.merge(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), method)  # the average of 3 and 0, the latter twice
        tensor([1., 2.])
    """

    state_names: ClassVar[tuple[str, ...]] = ("memory", "moments", "counts", "calls", "losses")
    memory_names: ClassVar[tuple[str, ...]] = ("memory", "moments")

    def __init__(
        self,
        *,
        method: str | Method = "config",
        beta: float = 0.9,
        second: Literal["none", "pseudo_adam"] = "none",
        beta2: float = 0.999,
        eps: float = 1e-8,
        before: Literal["present", "wait"] = "present",
    ) -> None:
        super().__init__()
        self.method = resolve(method)
        if self.method.needs != "gram" or self.method.tracks or self.method.learns:
            raise ValueError(
                "Parameter `method` should weigh gradients by their inner products and learn nothing. "
                f"Found {self.method.name!r}."
            )
        self.beta, self.beta2 = share("beta", beta), share("beta2", beta2)
        self.second = one_of("second", second, ("none", "pseudo_adam"))
        self.eps = positive("eps", eps)
        self.before = one_of("before", before, ("present", "wait"))
        self.moments: dict[int, list[Tensor | None]] = {}
        self.counts: Tensor | None = None
        self.calls: Tensor | None = None
        self.losses: Tensor | None = None
        self._reached: dict[int, list[bool]] = {}  # by place: what tasks have, also after a reset

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        """The weights of averages whose Gram matrix is given."""
        scale = torch.ones_like(gram[..., 0]) if scale is None else scale
        return self.method.solve(gram, scale, losses, **given)

    def scale_heads(self, scale: Tensor, losses: Tensor | None) -> Tensor:
        """As the other method."""
        return self.method.scale_heads(scale, losses)

    # One step of the averages.

    def average(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        fresh: Sequence[bool],
        exactly: bool = False,
    ) -> list[Tensor | None]:
        """Moves the averages of the fresh tasks.

        Args:
            rows: ``T × P`` gradients, ``None`` in the rows of the other tasks.
            factors: ``(T,)`` float64, what to multiply each gradient with; 0 where an average is to stay.
            fresh: Which tasks' gradients these are; one without elements in some parameter has a zero gradient there.
            exactly: Keeps the averages in the dtypes of the rows.

        Returns:
            ``T × P``, the averages themselves; ``None`` where a task has never reached a parameter.
        """
        tasks, count = len(fresh), len(rows) // len(fresh)
        places, nowhere = range(count), [False] * tasks
        counts = recall(self, "counts", (tasks,), factors.device, 0.0)
        moves = factors != 0
        counts.add_(moves)
        rates = (1.0 - self.beta) / (1.0 - self.beta**counts)  # 1 the first time, exactly
        kept = torch.where(moves, 1.0 - rates, 1.0)
        if untouched(self, "memory"):
            self._reached = {}
        self._fade(rows, fresh, kept)
        found = self.recall(rows, places, exactly=exactly)
        pairs = [
            (known, row if row.dtype == known.dtype else row.to(known.dtype), *divmod(k, count))
            for k, (known, row) in enumerate(zip(found, rows, strict=True))
            if known is not None and row is not None
        ]
        for _, _, t, place in pairs:
            self._reached.setdefault(place, [False] * tasks)[t] = True
        averages = [known for known, *_ in pairs]
        ops.merge_(
            averages,
            [*averages, *(row for _, row, *_ in pairs)],
            torch.stack([kept, torch.where(moves, rates * factors, 0.0)], dim=1),
            segments=[t for _, _, t, _ in pairs],
        )
        return [
            self.memory[place][t] if self._reached.get(place, nowhere)[t] else None
            for t in range(tasks)
            for place in places
        ]

    def _fade(self, rows: Sequence[Tensor | None], fresh: Sequence[bool], kept: Tensor) -> None:
        """Moves the averages of parameters that a fresh task has reached before and does not reach now."""
        count = len(rows) // len(fresh)
        for place, column in self.memory.items():
            for t, known in enumerate(column):
                if known is not None and fresh[t] and rows[t * count + place] is None:
                    known.mul_(kept[t].to(known.dtype))

    @property
    def seen(self) -> Tensor:
        """``(T,)`` bool: which tasks were fresh once."""
        assert self.counts is not None
        return self.counts > 0

    def last_losses(self, values: Tensor) -> Tensor:
        """``(T,)`` float64: the losses of this step, or the last ones before of tasks that have none."""
        known = recall(self, "losses", tuple(values.shape), values.device, torch.nan)
        return known.copy_(torch.where(values.isfinite(), values, known))

    def divide_(self, merged: Sequence[Tensor], places: Sequence[int], answered: Tensor) -> None:
        """Divides what was merged by the root of its second moment, if there is to be one.

        Args:
            merged: K merged gradients, changed in place.
            places: The place of the parameter of each.
            answered: 0-d bool; nothing is remembered where it is false.
        """
        if self.second == "none":
            return
        count, beta, beta2 = len(merged), self.beta, self.beta2
        moments = self.recall([*merged, *merged], places, "moments")
        k = recall(self, "calls", (), answered.device, 0.0).add_(answered)
        for d, first, square in zip(merged, moments[:count], moments[count:], strict=True):
            assert first is not None
            assert square is not None
            new = d.to(first.dtype) * (1.0 - beta**k).to(first.dtype)
            slope = (new - beta * first) / (1.0 - beta)
            second = square.lerp(slope.square_(), 1.0 - beta2)
            size = (second / (1.0 - beta2**k).to(first.dtype)).sqrt_().add_(self.eps)
            d.copy_(torch.where(answered, d / size, d))
            first.copy_(torch.where(answered, new, first))
            square.copy_(torch.where(answered, second, square))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            ValueError: If ``state`` is not of this method, or of another one in it.
        """
        state = dict(state)
        name, inner = state.pop("method", None), state.pop("method_state", {})
        if name != self.method.name:
            raise ValueError(
                f"Parameter `state` should be of averages that method {self.method.name!r} weighs. "
                f"Found {name!r}."
            )
        super().load_state_dict(state)
        self.method.load_state_dict(inner)
        self._reached = {
            place: [known is not None for known in column]
            for place, column in self._saved("memory").items()
        }

    def state_dict(self) -> dict[str, Any]:
        """The averages, and what the other method remembers."""
        inner = {"method": self.method.name, "method_state": self.method.state_dict()}
        return {**super().state_dict(), **inner}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if sorted(state) != sorted(self.state_names):
            raise ValueError(
                f"Parameter `state` should hold {sorted(self.state_names)} for method {self.name!r}. "
                f"Found {sorted(state)}."
            )

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
        super().reset()
        self.method.reset()


class Averages(OverAnother, NativeMethod):  # type: ignore[override]
    """The method that weighs averages which were moved already.

    Args:
        method: What weighs them.
        seen: ``(T,)`` bool: which tasks have an average.
        answer: 0-d float64: 1 for the weights that the method finds; 0, or NaN, for that instead.
    """

    name = Momentum.name

    def __init__(self, method: Method, seen: Tensor, answer: Tensor) -> None:
        self.method, self.seen, self.answer = method, seen, answer

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        """Of the averages that there are."""
        assert scale is not None
        return self._answered(
            self.method.solve(gram, torch.where(self.seen, scale, 0.0), losses, **given)
        )

    def scale_heads(self, scale: Tensor, losses: Tensor | None) -> Tensor:
        """Of the averages that there are."""
        return self._answered(self.method.scale_heads(torch.where(self.seen, scale, 0.0), losses))

    def _answered(self, weights: Tensor) -> Tensor:
        return torch.where(self.answer == 1.0, weights, self.answer)

"""ExcessMTL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._checks import only, positive
from ._memory import keep, recall
from ._registry import register
from ._tracking import TrackingMethod

__all__ = ["ExcessMTL"]

_EPSILON = 1e-7
_PIECE = 1 << 17  # elements of a CPU tensor that stay in the cache from one operation to the next


@register("excess_mtl")
class ExcessMTL(TrackingMethod):
    """Excess risk: more weight for tasks that have further to go, and not for those that are noisy.

    With S the sums of the squares of all gradients so far, element by element, a task's excess risk
    is estimated as

        ``e_i = Σ_p g_ip² / √(S_ip + 1e-7)``.

    With ``e⁰`` that of the first step, each further step multiplies w by ``exp(η e / e⁰)`` and
    divides it so that its sum stays T.

    **Memory of J's size:** S, T gradients of the shared parameters. In a single process only. Besides
    it, w, at first 1, and ``e⁰``.

    Guarantees: ``w > 0``, and ``Σw = T`` if all tasks take part.

    Args:
        step_size: η.

    e can be handed in as ``excess`` ``(T,)`` or ``(S, T)``; nothing is then read from the gradients.
    TorchJD's weights sum to 1, and its first step multiplies them by ``exp(η e)``: with many
    parameters that leaves one task for ever.

    LibMTL multiplies the gradients of heads with the weights, too; here each head gets its own
    gradient.

    Degenerate cases: a task that takes no part in a step has the weight 0, and its S and w stay. A
    task with ``e⁰ = 0`` counts as if ``e = 0`` (others divide by it). If a gradient that takes part
    is not finite, everything stays, and the answer is NaN.

    Raises:
        ValueError: If ``step_size`` is out of range, or tasks, segments or parameters change.
        TypeError: If ``step_size`` is not a number, or weights are asked for without gradients.

    Yifei He, Shiji Zhou, Guojun Zhang, Hyokun Yun, Yi Xu, Belinda Zeng, Trishul Chilimbi, Han Zhao,
    "Robust Multi-Task Learning with Excess Risks", ICML 2024.

    Example:
        >>> import torch, mtl_ops
        >>> method = mtl_ops.methods.ExcessMTL(step_size=1.0)
        >>> for _ in range(2):
        ...     merged = mtl_ops.merge(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), method)
        >>> merged  # both tasks have done the same share of their way
        tensor([1., 2.])
    """

    state_names = ("memory", "balance", "first")

    def __init__(self, *, step_size: float = 0.01) -> None:
        super().__init__()
        self.step_size = positive("step_size", step_size)
        self.balance: Tensor | None = None
        self.first: Tensor | None = None
        self._excess: Tensor | None = None

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
        super().reset()
        self._excess = None

    def track(
        self,
        rows: Sequence[Tensor | None],
        factors: Tensor,
        losses: Tensor | None,
        places: Sequence[int],
        segments: Sequence[int],
    ) -> None:
        totals = self.recall(rows, places)
        add_up = _add_up_pieces if factors.device.type == "cpu" else _add_up_lists
        self._excess = add_up(rows, totals, factors, segments)

    def solve(
        self, gram: Tensor, scale: Tensor | None, losses: Tensor | None, **given: Any
    ) -> Tensor:
        only(given, "excess")
        excess = self._take_excess(given.get("excess"), gram)
        scale = torch.ones_like(excess) if scale is None else scale
        part = scale != 0
        shape = tuple(excess.shape)
        weights = recall(self, "balance", shape, gram.device, 1.0)
        first = recall(self, "first", shape, gram.device, torch.nan)
        norms = gram.diagonal(dim1=1, dim2=2)
        usable = torch.where(part, norms + excess, 0.0).isfinite().all()
        known = part & ~first.isnan()
        ratio = torch.where(known & (first > 0), excess / first, 0.0)
        logits = (weights.log() + self.step_size * ratio).masked_fill(~known, -torch.inf)
        mass = torch.where(known, weights, 0.0).sum(dim=1, keepdim=True)
        new = torch.where(known, mass * logits.softmax(dim=1), weights)
        answer = torch.where(part, torch.where(usable, scale * new, torch.nan), 0.0)
        first = torch.where(part & ~known & usable, excess, first)
        keep(self, first=first, balance=torch.where(usable, new, weights))
        return answer

    def _take_excess(self, given: Tensor | None, gram: Tensor) -> Tensor:
        """e, ``(S, T)`` float64."""
        taken, self._excess = self._excess if given is None else given, None
        if taken is None:
            raise TypeError(
                f"Method {self.name!r} needs the gradients themselves: use `mtl_ops.merge`, or pass "
                "`excess`. Found neither."
            )
        if taken.shape not in (gram.shape[:2], gram.shape[1:2]):
            raise ValueError(
                f"Parameter `excess` should have shape {tuple(gram.shape[:2])}. "
                f"Found shape {tuple(taken.shape)}."
            )
        return taken.detach().to(gram).expand(gram.shape[:2])


def _add_up_pieces(
    rows: Sequence[Tensor | None],
    totals: Sequence[Tensor | None],
    factors: Tensor,
    segments: Sequence[int],
) -> Tensor:
    """Adds the squares of scaled rows to the totals, and returns e ``(S, T)``; by pieces that stay in the cache."""
    excess = factors.new_zeros(max(segments) + 1, len(factors))
    for k, (row, total) in enumerate(zip(rows, totals, strict=True)):
        if row is not None and total is not None:
            task, place = divmod(k, len(segments))
            for g, s in _pieces(row.to(total.dtype), total):
                excess[segments[place], task] += _excess(g, s, factors[task])
    return excess


def _add_up_lists(
    rows: Sequence[Tensor | None],
    totals: Sequence[Tensor | None],
    factors: Tensor,
    segments: Sequence[int],
) -> Tensor:
    """The same where a call costs more than a pass: by all rows of a task at a time."""
    tasks, count = len(factors), len(segments)
    excess = factors.new_zeros(max(segments) + 1, tasks)
    for task in range(tasks):
        place = [p for p in range(count) if rows[task * count + p] is not None]
        if not place:
            continue
        here: Any = [totals[task * count + p] for p in place]
        wide: Any = [rows[task * count + p] for p in place]
        wide = [row.to(total.dtype) for row, total in zip(wide, here, strict=True)]
        scaled = [torch.empty_like(total) for total in here]
        ops.merge_(scaled, wide, factors[task].reshape(1, 1))  # of a factor 0 nothing is read
        torch._foreach_addcmul_(here, scaled, scaled)
        roots = torch._foreach_add(here, _EPSILON)
        torch._foreach_pow_(roots, -0.25)
        torch._foreach_mul_(scaled, roots)
        home = [segments[p] for p in place]
        squares = ops.gram(scaled, 1, home)[:, 0, 0]
        excess[: len(squares), task] = squares
    return excess


def _excess(row: Tensor, total: Tensor, factor: Tensor) -> Tensor | float:
    """Adds the squares of a scaled row to the total, and returns ``Σ g² / √total``."""
    known: Any = (
        factor.tolist() if row.device.type == "cpu" else None
    )  # where to look costs no wait
    if known == 0:
        return 0.0
    if known != 1:
        row = torch.where(factor == 0, 0.0, row * factor.to(row.dtype))
    total.addcmul_(row, row)
    return torch.add(total, _EPSILON).rsqrt_().mul_(row).mul_(row).sum()


def _pieces(row: Tensor, total: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the same elements of both, small on a CPU."""
    if row.device.type != "cpu" or not (row.is_contiguous() and total.is_contiguous()):
        yield row, total
        return
    rows, totals = torch.split(row.view(-1), _PIECE), torch.split(total.view(-1), _PIECE)
    yield from zip(rows, totals, strict=True)

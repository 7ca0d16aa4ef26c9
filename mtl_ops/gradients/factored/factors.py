"""T gradients, of some parameters as factors and of the others as rows: G, and the merged gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import ops
from ...reference.gradients import precision
from ..layout import Layout
from ..rows import columns
from .inner import Part, gram_of_parts, joined
from .lookups import Lookup
from .products import MatrixProduct, Product, add_product_

__all__ = ["Factor", "TaskFactors", "kept_places"]


@dataclass
class Factor:
    """The gradients of one parameter.

    Attributes:
        products: Its uses.
        deltas: For each use the gradient of its output, of each of T tasks; ``None`` where there is none.
    """

    products: list[Product]
    deltas: list[list[Tensor | None]]

    @property
    def tasks(self) -> list[int]:
        """Those that reach the parameter."""
        count = len(self.deltas[0])
        return [t for t in range(count) if any(by_use[t] is not None for by_use in self.deltas)]

    @property
    def is_table(self) -> bool:
        """Whether rows of it are only picked."""
        return all(isinstance(product, Lookup) for product in self.products)

    def gram(self) -> Tensor:
        """``(T, T)`` float64."""
        tasks = self.tasks
        parts = [
            Part(
                product.fixed(),
                [None if (d := by_task[t]) is None else product.moving(d) for t in tasks],
                product.left,
            )
            for product, by_task in zip(self.products, self.deltas, strict=True)
            if any(delta is not None for delta in by_task)
        ]
        small = gram_of_parts(joined(parts))
        if len(tasks) == len(self.deltas[0]):
            return small
        count = len(self.deltas[0])
        gram = small.new_zeros(count, count)
        places = torch.tensor(tasks, device=gram.device)
        gram[places.unsqueeze(1), places] = small
        return gram

    def compact(self) -> list[Tensor | None]:
        """Of a table the gradients of the rows that are used: T of the same shape, at most one row for each use."""
        ids = torch.cat([product.fixed() for product in self.products])
        order = ids.argsort(stable=True)
        fresh = torch.ones_like(ids, dtype=torch.bool)
        fresh[1:] = ids[order][1:] != ids[order][:-1]
        places = torch.empty_like(ids)
        places[order] = fresh.cumsum(0) - 1  # not `unique`, which waits for a GPU
        rows: list[Tensor | None] = []
        for task in range(len(self.deltas[0])):
            parts = [
                (product, by_task[task])
                for product, by_task in zip(self.products, self.deltas, strict=True)
            ]
            some = next((delta for _, delta in parts if delta is not None), None)
            if some is None:
                rows.append(None)
                continue
            total = some.new_zeros(len(ids), some.shape[-1])
            start = 0
            for product, delta in parts:
                count = len(product.fixed())
                if delta is not None:
                    moving = product.moving(delta)[0]
                    total.index_add_(0, places[start : start + count], moving)
                start += count
            rows.append(total)
        return rows

    def write_(self, out: Tensor, mixed: Sequence[Tensor], accumulate: bool) -> None:
        """Writes the gradient that the uses' mixed output gradients give, or adds it."""
        beta = 1.0 if accumulate else 0.0
        rest: list[tuple[Product, Tensor]] = []
        kinds: dict[tuple[bool, int], list[tuple[MatrixProduct, Tensor]]] = {}
        for product, delta in zip(self.products, mixed, strict=True):
            if isinstance(product, MatrixProduct):
                kinds.setdefault((product.left, len(product.matrix)), []).append((product, delta))
            else:
                rest.append((product, delta))
        for (left, _), group in kinds.items():  # one product of all their rows
            fixed = [product.matrix for product, _ in group]
            moving = [product.moving(delta) for product, delta in group]
            one = len(group) == 1
            both = (fixed[0], moving[0]) if one else (torch.cat(fixed, 1), torch.cat(moving, 1))
            add_product_(out, *both, left, beta)
            beta = 1.0
        for product, delta in rest:
            product.add_(out, delta, beta)
            beta = 1.0


@dataclass
class TaskFactors:
    """The gradients of T tasks by P parameters.

    Attributes:
        tasks: T.
        reached: ``T × P``, row-major, ``None`` where a task does not reach a parameter, as of the rows themselves.
        rows: ``T × P`` gradients; ``None`` also where a parameter is in factors.
        factors: Those in factors, by the parameter's place.
        batched: Whether several tasks were differentiated at once.
    """

    tasks: int
    reached: list[object | None]
    rows: list[Tensor | None]
    factors: dict[int, Factor]
    batched: bool

    @property
    def count(self) -> int:
        """P."""
        return len(self.rows) // self.tasks

    def gram(self, layout: Layout) -> Tensor:
        """``(S, T, T)`` float64, as of :func:`mtl_ops.ops.gram` of the rows that the layout keeps."""
        places = kept_places(layout, self.count)
        homes = dict(zip(places, layout.homes(len(places)), strict=True))
        direct = [p for p in places if p not in self.factors and self._has_rows(p)]
        tables = [p for p in places if p in self.factors and self.factors[p].is_table]
        compact = [self.factors[p].compact() for p in tables]
        rows = [
            row
            for t in range(self.tasks)
            for row in (
                *(self.rows[t * self.count + p] for p in direct),
                *(by_task[t] for by_task in compact),
            )
        ]
        segments = [homes[p] for p in (*direct, *tables)]
        shape = (layout.total, self.tasks, self.tasks)
        some = next(row for row in self._every_row() if row is not None)
        gram = torch.zeros(shape, dtype=precision(some.device), device=some.device)
        if any(row is not None for row in rows):
            measured = ops.gram(rows, self.tasks, segments)
            gram[: len(measured)] = measured
        for p in places:
            if p in self.factors and p not in tables:
                gram[homes[p]] += self.factors[p].gram()
        return gram

    def merge_(
        self,
        out: Sequence[Tensor],
        weights: Tensor,
        layout: Layout,
        gram: Tensor | None = None,
        max_norm: float | None = None,
        accumulate: bool = False,
    ) -> Tensor:
        """Writes the merged gradient of the parameters that the layout keeps; see :func:`mtl_ops.ops.merge_`.

        Gradients of outputs are mixed as rows are, in the same call; then each use takes one product.
        """
        places = kept_places(layout, self.count)
        homes = dict(zip(places, layout.homes(len(places)), strict=True))
        into = dict(zip(places, out, strict=True))
        direct = [p for p in places if p not in self.factors]
        uses = [
            (p, k) for p in places if p in self.factors for k in range(len(self.factors[p].deltas))
        ]
        make = torch.zeros_like if accumulate else torch.empty_like
        mixed = {
            (p, k): make(_some(self.factors[p].deltas[k]), memory_format=torch.contiguous_format)
            for p, k in uses
        }
        rows = [
            row
            for t in range(self.tasks)
            for row in (
                *(self.rows[t * self.count + p] for p in direct),
                *(self.factors[p].deltas[k][t] for p, k in uses),
            )
        ]
        clip = ops.merge_(
            [*(into[p] for p in direct), *mixed.values()],
            rows,
            weights,
            gram,
            [*(homes[p] for p in direct), *(homes[p] for p, _ in uses)],
            max_norm,
            None,
            accumulate,
        )
        for p in places:
            if p in self.factors:
                count = len(self.factors[p].deltas)
                self.factors[p].write_(
                    into[p], [mixed.pop((p, k)) for k in range(count)], accumulate
                )
        return clip

    def dtypes(self, params: Sequence[Tensor], layout: Layout) -> list[torch.dtype]:
        """Of the gradients of each parameter that the layout keeps."""
        found = []
        for p, param in zip(kept_places(layout, self.count), params, strict=True):
            rows = [] if p in self.factors else self.rows[p :: self.count]
            found.append(next((row.dtype for row in rows if row is not None), param.dtype))
        return found

    def clear(self) -> None:
        """Frees all of it."""
        self.rows.clear()
        self.factors.clear()

    def _has_rows(self, place: int) -> bool:
        return any(row is not None for row in columns(self.rows, self.count, [place]))

    def _every_row(self) -> list[Tensor | None]:
        return [*self.rows, *(d for f in self.factors.values() for by in f.deltas for d in by)]


def _some(deltas: Sequence[Tensor | None]) -> Tensor:
    return next(delta for delta in deltas if delta is not None)


def kept_places(layout: Layout, count: int) -> Sequence[int]:
    """Which of P parameters a layout keeps."""
    return range(count) if layout.kept is None else layout.kept

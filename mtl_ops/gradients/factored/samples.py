"""Losses of single samples: the factors of all their gradients from one backward of the sum.

Where the rows of a sample feed its loss alone, the gradient of the sum by a product's output holds those of all losses,
each in rows of its own. So ``G_bc = Σ (u_r · u_s) (v_r · v_s)`` over the rows r of sample b and s of sample c, of all
parameters, and the merged gradient is ``Σ_r w_r u_r v_rᵀ``, one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...reference.gradients import precision
from ..layout import Layout
from .factors import Factor, kept_places
from .lookups import Lookup
from .products import Product, write_
from .sample_gram import gram_of_rows, gram_of_sums
from .sums import merged_sum

__all__ = ["SampleFactors", "Summed", "Used"]


@dataclass
class Used:
    """A parameter that is in products.

    Attributes:
        products: Its uses.
        deltas: The gradient of the sum by the output of each.
        owners: The sample of each row of these.
    """

    products: list[Product]
    deltas: list[Tensor]
    owners: list[Tensor]

    def gram(self, count: int) -> Tensor:
        """``(B, B)`` float64."""
        tables = [isinstance(product, Lookup) for product in self.products]
        width = None if all(tables) else self.products[0].shape[0]
        u, v, owners = [], [], []
        for product, delta, owner in zip(self.products, self.deltas, self.owners, strict=True):
            fixed, moving = product.fixed(), product.moving(delta)[0]
            if isinstance(product, Lookup):
                owner = owner if product.bags is None else owner[product.bags]
                fixed = fixed if width is None else _one_hot(fixed, width, moving)
            else:
                fixed = fixed[0]
            first, second = (fixed, moving) if product.left else (moving, fixed)
            u.append(first)
            v.append(second)
            owners.append(owner)
        if len(u) == 1:
            return gram_of_rows(u[0], v[0], owners[0], count)
        return gram_of_rows(torch.cat(u), torch.cat(v), torch.cat(owners), count)

    def write_(self, out: Tensor, factors: Tensor, accumulate: bool) -> None:
        """Writes the merged gradient; ``factors`` ``(B,)`` of the samples."""
        mixed = [
            product.scaled(delta, factors[owner])
            for product, delta, owner in zip(self.products, self.deltas, self.owners, strict=True)
        ]
        Factor(self.products, []).write_(out, mixed, accumulate)


@dataclass
class Summed:
    """A parameter whose gradient is a sum of rows.

    Attributes:
        terms: The rows of each use.
        owners: The sample of each.
    """

    terms: list[Tensor]
    owners: list[Tensor]

    def gram(self, count: int) -> Tensor:
        """``(B, B)`` float64; the terms become one for each sample."""
        gram, sums = gram_of_sums(torch.cat(self.terms), torch.cat(self.owners), count)
        self.terms, self.owners = [sums], [torch.arange(count, device=sums.device)]
        return gram

    def write_(self, out: Tensor, factors: Tensor, accumulate: bool) -> None:
        """Writes the merged gradient; ``factors`` ``(B,)`` of the samples."""
        beta = 1.0 if accumulate else 0.0
        for terms, owners in zip(self.terms, self.owners, strict=True):
            write_(out, merged_sum(terms, factors[owners]).reshape(out.shape), beta)
            beta = 1.0


def _one_hot(ids: Tensor, width: int, like: Tensor) -> Tensor:
    """Rows that products of a table with other things can be computed with."""
    rows = like.new_zeros(len(ids), width)
    return rows.scatter_(1, ids.clamp(min=0).unsqueeze(1), (ids >= 0).to(like.dtype).unsqueeze(1))


@dataclass
class SampleFactors:
    """The gradients of B samples' losses by P parameters; as :class:`TaskFactors`, with B for T.

    Attributes:
        tasks: B.
        reached: ``B × P``, row-major.
        found: The parameters that are reached, by place.
        device: Of the losses.
    """

    tasks: int
    reached: list[object | None]
    found: dict[int, Used | Summed]
    device: torch.device
    batched: bool = field(default=True, init=False)

    @property
    def count(self) -> int:
        """P."""
        return len(self.reached) // self.tasks

    def gram(self, layout: Layout) -> Tensor:
        """``(S, B, B)`` float64."""
        shape = (layout.total, self.tasks, self.tasks)
        gram = torch.zeros(shape, dtype=precision(self.device), device=self.device)
        places = kept_places(layout, self.count)
        for place, home in zip(places, layout.homes(len(places)), strict=True):
            gram[home] += self.found[place].gram(self.tasks)
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
        """Writes the merged gradient of the parameters that the layout keeps; see :func:`mtl_ops.ops.merge_`."""
        clip = weights.new_ones(())
        if max_norm is not None:
            assert gram is not None
            part = weights != 0
            both = part.unsqueeze(2) & part.unsqueeze(1)
            squares = torch.einsum("si,sij,sj->", weights, torch.where(both, gram, 0.0), weights)
            clip = (max_norm / squares.clamp(min=0.0).sqrt()).clamp(max=1.0)
        factors = torch.where(weights != 0, weights * clip, 0.0)
        places = kept_places(layout, self.count)
        homes = layout.homes(len(places))
        for place, home, into in zip(places, homes, out, strict=True):
            self.found[place].write_(into, factors[home], accumulate)
        return clip

    def dtypes(self, params: Sequence[Tensor], layout: Layout) -> list[torch.dtype]:
        """Of the gradients of each parameter that the layout keeps."""
        return [param.dtype for param in params]

    def clear(self) -> None:
        """Frees all of it."""
        self.found.clear()

"""What the benchmarks merge: gradients in the shapes of real models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["SHAPES", "Problem", "random_problem", "resnet18", "transformer"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """P parameters and the gradients of T tasks, ``rows[t][p]``, as autograd returns them."""

    params: list[Tensor]
    rows: list[list[Tensor]]

    @property
    def elements(self) -> int:
        """N, of one task."""
        return sum(param.numel() for param in self.params)

    @property
    def flat(self) -> list[Tensor]:
        """The ``T × P`` gradients as one list, row-major."""
        return [gradient for row in self.rows for gradient in row]

    @cached_property
    def with_jacobians(self) -> list[torch.nn.Parameter]:
        """Parameters with the ``(T, ...)`` gradients stacked in ``.jac``, as TorchJD leaves them."""
        params = [torch.nn.Parameter(param) for param in self.params]
        for place, param in enumerate(params):
            param.jac = torch.stack([row[place] for row in self.rows])
        return params

    @property
    def floor_bytes(self) -> int:
        """What any method has to move: read all gradients twice, write the merged one."""
        size = self.params[0].element_size()
        return size * self.elements * (2 * len(self.rows) + 1)


def random_problem(
    shapes: Sequence[Shape],
    tasks: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    """Gradients of different norms, half of them against the other half.

    A common direction with the factor 0.5 for even and -0.5 for odd tasks gives cosines around
    ±0.2, so that methods that act upon conflicts have to.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(shape: Shape) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    common = [normal(shape) for shape in shapes]
    rows = []
    for task in range(tasks):
        norm, part = 1.0 + task / tasks, 0.5 if task % 2 == 0 else -0.5
        rows.append([(normal(c.shape).add_(c, alpha=part)).mul_(norm).to(dtype) for c in common])
    return Problem([torch.zeros_like(row) for row in rows[0]], rows)


def resnet18() -> list[Shape]:
    """The 62 parameters of ResNet-18 for 1000 classes, 11.7 million elements."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    width = 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for block in range(2):
            shapes += [(out, width, 3, 3), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
            if stage > 0 and block == 0:
                shapes += [(out, width, 1, 1), (out,), (out,)]
            width = out
    return [*shapes, (1000, 512), (1000,)]


def transformer(layers: int = 6, width: int = 384) -> list[Shape]:
    """The parameters of a transformer encoder without embeddings, 10.6 million elements."""
    layer: list[Shape] = [
        (3 * width, width),
        (3 * width,),
        (width, width),
        (width,),
        (4 * width, width),
        (4 * width,),
        (width, 4 * width),
        *[(width,)] * 5,
    ]
    return layer * layers


SHAPES = {"ResNet-18": resnet18(), "transformer": transformer()}

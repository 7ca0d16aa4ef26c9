"""A physics-informed network: residual, boundary and initial losses of a Burgers equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data import Batch, Goal, Split
from ..data.burgers import VISCOSITY, burgers_points
from .base import Example, Size

__all__ = ["BurgersNet", "Field", "Physics", "burgers_residual"]


@dataclass(frozen=True)
class Field(Goal):
    """A mean square in training, judged by the error against the known solution.

    ``sqrt(Σ (u - u*)² / Σ u*²)`` over the test points of this task.

    Example:
        >>> import torch
        >>> Field("boundary").score(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [2.0]]))
        tensor(0.4472)
    """

    name: str
    metric: ClassVar[str] = "rel. error"
    higher_is_better: ClassVar[bool] = False
    percent: ClassVar[bool] = True

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(output, target)

    def tally(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared errors and squares of the solution, summed: ``(2,)`` float64."""
        return torch.stack([(output - target).square().sum(), target.square().sum()]).double()

    def figure(self, tally: Tensor) -> Tensor:
        """The relative error."""
        return (tally[0] / tally[1]).sqrt().float()


TASKS: dict[str, Goal] = {name: Field(name) for name in ("residual", "boundary", "initial")}


class BurgersNet(nn.Module):
    """u(x, t) as a network: tanh, ``depth`` hidden layers of ``width``.

    ``L_residual = mean (u_t + u u_x - ν u_xx)²`` at points inside, ``L_boundary`` and ``L_initial`` the
    mean squared difference from the known values on the sides and at t = 0.

    Raissi, Perdikaris, Karniadakis, "Physics-informed neural networks", Journal of Computational
    Physics 378, 2019; as a multi-task problem: Liu, Chu, Thuerey, "ConFIG: Towards Conflict-free
    Training of Physics Informed Neural Networks", ICLR 2025.

    Args:
        tasks: Which of the losses are wanted.
        width: Units of a hidden layer.
        depth: Number of hidden layers.

    Example:
        >>> from mtl_ops.data.burgers import burgers_points
        >>> points = burgers_points(8, 4, 2)
        >>> batch = {"input": {task: own["input"] for task, own in points.items()}}
        >>> batch |= {task: own[task] for task, own in points.items()}
        >>> list(BurgersNet(["residual", "initial"]).losses(batch))
        ['residual', 'initial']
    """

    def __init__(self, tasks: Sequence[str], width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        layers: list[nn.Module] = []
        for before, after in pairwise((2, *[width] * depth)):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.field = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, input: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """U at the points of each task, ``(n, 2)`` to ``(n, 1)``."""
        return {task: self.field(input[task]) for task in self.tasks if task in input}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of the tasks whose points are in the batch."""
        losses: dict[str, Tensor] = {}
        for task in [task for task in self.tasks if task in batch["input"]]:
            points, target = batch["input"][task], batch[task]
            if task == "residual":
                # Where the loss is only looked at, derivatives by x and t are wanted nonetheless.
                with torch.enable_grad():
                    losses[task] = burgers_residual(self.field, points).square().mean()
            else:
                losses[task] = TASKS[task].loss(self.field(points), target)
        return losses


def burgers_residual(field: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """``u_t + u u_x - ν u_xx``, by automatic differentiation.

    Args:
        field: From points ``(n, 2)`` to u ``(n, 1)``.
        points: ``(n, 2)``, the columns x and t.

    Returns:
        ``(n, 1)``, zero where the equation holds.

    Example:
        >>> import torch
        >>> from mtl_ops.data.burgers import burgers_front
        >>> points = torch.rand(100, 2, dtype=torch.float64)
        >>> bool(burgers_residual(burgers_front, points).abs().max() < 1e-12)
        True
    """
    points = points.detach().requires_grad_()
    value = field(points)
    (first,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)
    return first[:, 1:] + value * first[:, :1] - VISCOSITY * second[:, :1]


class Physics(Example):
    """A network that solves a viscous Burgers equation, and whose three losses are the tasks."""

    name: ClassVar[str] = "physics"
    title: ClassVar[str] = "a Burgers equation"
    note: str = (
        "rel. error: against the known solution, inside, on the sides and at t = 0. The residual "
        "alone determines no solution, so read Δm with care."
    )
    methods: ClassVar[tuple[str, ...]] = ("pcgrad", "config", "upgrad", "famo")
    epochs: ClassVar[int] = 40
    batch_size: ClassVar[int] = 128
    seeds: ClassVar[tuple[int, ...]] = (0, 1)

    @property
    def tasks(self) -> dict[str, Goal]:
        """See :class:`Example`."""
        return dict(TASKS)

    def load(self, seed: int, size: Size = "default") -> Split:
        """See :class:`Example`."""
        part = 1 if size == "default" else 8
        return Split(
            burgers_points(2048 // part, 1024 // part, 1024 // part, seed),
            burgers_points(2000 // part, 400 // part, 400 // part, seed + 2**32),
        )

    def model(self, tasks: Sequence[str], split: Split) -> nn.Module:
        """See :class:`Example`."""
        return BurgersNet(tasks)

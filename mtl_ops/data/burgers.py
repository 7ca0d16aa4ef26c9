"""Collocation points for a viscous Burgers equation whose solution is known."""

from __future__ import annotations

import torch
from torch import Tensor

from .task import Batch

__all__ = ["VISCOSITY", "burgers_front", "burgers_points"]

#: ν of ``u_t + u u_x = ν u_xx``.
VISCOSITY = 0.05


def burgers_front(points: Tensor) -> Tensor:
    """The travelling front that solves ``u_t + u u_x = ν u_xx``.

        ``u(x, t) = (1 - tanh((x - t/2) / (4 ν))) / 2``,  ν = 0.05

    It moves at speed 1/2 from 1 on the left to 0 on the right without changing its shape.
    Burgers, "A Mathematical Model Illustrating the Theory of Turbulence", Advances in Applied
    Mechanics 1, 1948.

    Args:
        points: ``(n, 2)``, the columns x and t.

    Returns:
        ``(n, 1)`` of the points' dtype.

    Raises:
        ValueError: If the points are not ``(n, 2)``.

    Example:
        >>> import torch
        >>> burgers_front(torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
        tensor([[0.5000],
                [0.5000]])
    """
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(
            f"Parameter `points` should have shape (n, 2). Found shape {tuple(points.shape)}."
        )
    x, t = points[:, :1], points[:, 1:]
    return (1 - torch.tanh((x - t / 2) / (4 * VISCOSITY))) / 2


def burgers_points(interior: int, boundary: int, initial: int, seed: int = 0) -> dict[str, Batch]:
    """Points in x ∈ [-1, 1], t ∈ [0, 1], on its two sides, and at t = 0, uniformly at random.

    Args:
        interior: How many inside.
        boundary: How many on the sides.
        initial: How many at t = 0.
        seed: Decides where they are.

    Returns:
        For each of the tasks ``residual``, ``boundary`` and ``initial`` a set with ``input`` ``(n, 2)``
        and, under the task's name, the solution there, ``(n, 1)``; float32.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> points = burgers_points(8, 4, 2)
        >>> {task: tuple(own["input"].shape) for task, own in points.items()}
        {'residual': (8, 2), 'boundary': (4, 2), 'initial': (2, 2)}
    """
    for name, value in (("interior", interior), ("boundary", boundary), ("initial", initial)):
        if value < 1:
            raise ValueError(f"Parameter `{name}` should be positive. Found `{name} = {value}`.")
    generator = torch.Generator().manual_seed(seed)
    inside, sides, start = (
        torch.rand((count, 2), generator=generator) * torch.tensor([2.0, 1.0])
        - torch.tensor([1.0, 0.0])
        for count in (interior, boundary, initial)
    )
    sides[:, 0] = sides[:, 0].sign()
    start[:, 1] = 0.0
    points = {"residual": inside, "boundary": sides, "initial": start}
    return {task: {"input": at, task: burgers_front(at)} for task, at in points.items()}

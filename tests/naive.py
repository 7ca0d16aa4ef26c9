"""Multi-task training written down naively: long vectors, loops, and no thought of speed.

Nothing here uses the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: From the gradients of the tasks that take part, ``(K, N)``, and their places, to one gradient.
Rule = Callable[[Tensor, Sequence[int]], Tensor]


def summed(jacobian: Tensor, places: Sequence[int]) -> Tensor:
    """The sum."""
    return jacobian.sum(dim=0)


def mean(jacobian: Tensor, places: Sequence[int]) -> Tensor:
    """The mean."""
    return jacobian.mean(dim=0)


def pcgrad(orders: Sequence[Sequence[int]]) -> Rule:
    """Algorithm 1 of the paper, with its random orders given."""

    def rule(jacobian: Tensor, places: Sequence[int]) -> Tensor:
        gradient = dict(zip(places, jacobian, strict=True))
        merged = torch.zeros_like(jacobian[0])
        for i in places:
            changed = gradient[i].clone()
            for j in orders[i]:
                if j != i and j in gradient and changed.dot(gradient[j]) < 0:
                    other = gradient[j]
                    changed -= changed.dot(other) / other.dot(other) * other
            merged += changed
        return merged

    return rule


def mgda(jacobian: Tensor, places: Sequence[int]) -> Tensor:
    """The shortest vector in the convex hull: the best over all faces, each solved directly."""
    best = None
    for size in range(1, len(jacobian) + 1):
        for face in itertools.combinations(range(len(jacobian)), size):
            rows = jacobian[list(face)]
            system = torch.zeros(size + 1, size + 1, dtype=rows.dtype)
            system[:size, :size] = rows @ rows.T
            system[size, :size] = system[:size, size] = 1
            right = torch.zeros(size + 1, dtype=rows.dtype)
            right[size] = 1
            weights = torch.linalg.solve(system, right)[:size]
            if (weights >= -1e-12).all():
                candidate = weights @ rows
                if best is None or candidate.norm() < best.norm():
                    best = candidate
    assert best is not None
    return best


def upgrad(jacobian: Tensor, places: Sequence[int]) -> Tensor:
    """The mean of the projections of the gradients on the cone of all x with J x >= 0."""
    return torch.stack([_on_dual_cone(row, jacobian) for row in jacobian]).mean(dim=0)


def _on_dual_cone(vector: Tensor, jacobian: Tensor) -> Tensor:
    """The nearest point with J x >= 0: of all sets of active constraints the one that is optimal."""
    best = None
    for size in range(len(jacobian) + 1):
        for active in itertools.combinations(range(len(jacobian)), size):
            rows = jacobian[list(active)]
            point = vector - torch.linalg.solve(rows @ rows.T, rows @ vector) @ rows
            feasible = (jacobian @ point >= -1e-10 * jacobian.norm(dim=1) * vector.norm()).all()
            if feasible and (best is None or (point - vector).norm() < (best - vector).norm()):
                best = point
    assert best is not None
    return best


def cagrad(c: float) -> Rule:
    """Equation 3 of the paper for two tasks: its dual by bisection."""

    def rule(jacobian: Tensor, places: Sequence[int]) -> Tensor:
        if len(jacobian) == 1:
            raise ValueError("two tasks")
        first, second = jacobian
        mean_gradient = jacobian.mean(dim=0)
        radius = c * mean_gradient.norm()

        def slope(weight: float) -> float:
            along = weight * first + (1 - weight) * second
            step = first - second
            return float(step.dot(mean_gradient) + radius * step.dot(along) / along.norm())

        low, high = 0.0, 1.0
        if slope(low) >= 0:
            high = low
        elif slope(high) <= 0:
            low = high
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        along = low * first + (1 - low) * second
        return mean_gradient + radius / along.norm() * along

    return rule


def merged_gradients(
    losses: Sequence[Tensor | None],
    params: Sequence[Tensor],
    rule: Rule,
    *,
    task_weights: Sequence[float] | None = None,
    max_task_norm: float | None = None,
    clip_value: float | None = None,
    max_norm: float | None = None,
    sets: Sequence[int] | None = None,
    shared: Sequence[bool] | None = None,
) -> list[Tensor | None]:
    """The merged gradient of each parameter; ``None`` where no loss reaches it.

    ``sets`` names for each parameter the set that it is merged in, if it is shared; ``shared`` says
    whether it is, where that is not to be found from the losses.
    """
    rows = []
    for loss in losses:
        row: Sequence[Tensor | None] = [None] * len(params)
        if loss is not None and (task_weights is None or task_weights[len(rows)]):
            row = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        if clip_value is not None:
            row = [g if g is None else g.clamp(-clip_value, clip_value) for g in row]
        rows.append(row)
    factors = []
    for t, row in enumerate(rows):
        norm = torch.cat([torch.zeros(1), *(g.flatten() for g in row if g is not None)]).norm()
        factor = 1.0 if task_weights is None else task_weights[t]
        if max_task_norm is not None and norm > max_task_norm:
            factor *= max_task_norm / norm.item()
        factors.append(factor)
    reached = [[t for t, row in enumerate(rows) if row[p] is not None] for p in range(len(params))]
    if shared is None:
        shared = [len(tasks) > 1 for tasks in reached]
    out: list[Tensor | None] = [None] * len(params)
    for name in sorted(set(sets or [0])):
        mine = [
            p
            for p in range(len(params))
            if shared[p] and reached[p] and (sets is None or sets[p] == name)
        ]
        places = [t for t in range(len(rows)) if factors[t] and any(t in reached[p] for p in mine)]
        if not places:
            for p in mine:
                out[p] = torch.zeros_like(params[p])
            continue
        jacobian = torch.stack(
            [
                torch.cat([_or_zero(rows[t][p], params[p]).flatten() for p in mine]) * factors[t]
                for t in places
            ]
        )
        pieces = rule(jacobian, places).split([params[p].numel() for p in mine])
        for p, piece in zip(mine, pieces, strict=True):
            out[p] = piece.reshape(params[p].shape)
    for p, tasks in enumerate(reached):
        if tasks and not shared[p]:
            out[p] = sum(factors[t] * _or_zero(rows[t][p], params[p]) for t in tasks)
    if max_norm is not None:
        norm = torch.cat([g.flatten() for g in out if g is not None]).norm()
        if norm > max_norm:
            out = [g if g is None else g * (max_norm / norm) for g in out]
    return out


def _or_zero(gradient: Tensor | None, param: Tensor) -> Tensor:
    return torch.zeros_like(param) if gradient is None else gradient

"""Which points of the Pareto front methods with a preference reach on the two-parameter problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from .. import methods
from ..data import toy_losses
from ..demo.plots import PALETTE, STYLE
from ..methods import Method
from .pictures import grid, legend
from .toy import LEAST, Array, pareto_front, toy_gradients

__all__ = ["PREFERRING", "draw_front", "front_losses", "hypervolume", "share_of_front", "sweep"]

#: How each takes the wish that ``r_i L_i`` be the same: its own way to say that task i counts r_i.
PREFERRING: Mapping[str, Callable[[Tensor], Method]] = {
    "epo": lambda r: methods.EPO(preference=r),
    "pmgda": lambda r: methods.PMGDA(preference=1 / r),
    "ferero": lambda r: methods.FERERO(preference=1 / r, kappa=0.1),
    "upgrad": lambda r: methods.UPGrad(preference=r / r.sum()),
    "cosmos": lambda r: methods.COSMOS(preference=r / r.sum(), lam=1.0),
    "stch": lambda r: methods.STCH(weights=r / r.sum(), mu=0.02),
}
#: r_1 / r_2, in units of the worst losses on the front.
RATIOS = tuple(2.0**k for k in range(-4, 5))
#: Where all descents begin.
START = (0.0, -1.0)


def front_losses(first_scale: float) -> Array:
    """``(points, 2)``: the losses along the Pareto front, counted from the lower bound, from the second's best on."""
    along = torch.from_numpy(pareto_front(401))
    bound = LEAST * torch.tensor([first_scale, 1.0], dtype=torch.float64)
    found: Array = (toy_losses(along, first_scale) - bound).numpy()
    return found


def sweep(
    names: Sequence[str],
    steps: int,
    lr: float,
    first_scale: float,
    track: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Array]:
    """Descends with each method and each preference, with Adam.

    Args:
        names: Of :data:`PREFERRING`.
        steps: How many.
        lr: Of Adam.
        first_scale: Factor of the first loss.
        track: Is told of each step, to show how far it is.

    Returns:
        For each method ``(preferences, 2)``, the losses at the end, counted from the lower bound.
    """
    worst = torch.from_numpy(front_losses(first_scale).max(axis=0))
    made = [
        PREFERRING[name](torch.tensor([ratio, 1.0], dtype=torch.float64) / worst)
        for name in names
        for ratio in RATIOS
    ]
    theta = torch.nn.Parameter(torch.tensor([START] * len(made), dtype=torch.float64))
    adam = torch.optim.Adam([theta], lr=lr)
    for _ in track(range(steps)):
        losses, gradients = toy_gradients(theta, first_scale)
        grams = gradients @ gradients.transpose(1, 2)
        weights = torch.stack(
            [m.weights(g, x) for m, g, x in zip(made, grams, losses, strict=True)]
        )
        theta.grad = (weights.unsqueeze(2) * gradients).sum(dim=1)
        adam.step()
    ends = toy_gradients(theta, first_scale)[0].reshape(len(names), len(RATIOS), 2).numpy()
    return dict(zip(names, ends, strict=True))


def hypervolume(points: Array, reference: Array) -> float:
    """The area of what is worse than a point, and better than the reference in both losses.

    Zitzler, Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case Study and the Strength Pareto
    Approach", IEEE Transactions on Evolutionary Computation 1999.

    Args:
        points: ``(n, 2)`` losses.
        reference: ``(2,)``.

    Example:
        >>> import numpy as np
        >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0], [2.5, 2.5]]), np.array([3.0, 3.0]))
        3.0
    """
    area, height = 0.0, float(reference[1])
    for first, second in sorted(map(tuple, points.tolist())):
        if first < reference[0] and second < height:
            area += (float(reference[0]) - first) * (height - second)
            height = second
    return area


def share_of_front(points: Array, first_scale: float) -> float:
    """The hypervolume of points as a share of the whole front's; the reference is worst on the front in both losses."""
    front = front_losses(first_scale)
    reference = front.max(axis=0)
    return hypervolume(points, reference) / hypervolume(front, reference)


def draw_front(reached: Mapping[str, Array], first_scale: float) -> Figure:
    """A panel for each method: the front, and where each preference led."""
    front = front_losses(first_scale)
    with mpl.rc_context(STYLE):
        figure, panels = grid(list(reached))
        for (name, points), axis in zip(reached.items(), panels, strict=True):
            axis.plot(*front.T, color="black", linewidth=1.5, zorder=2)
            axis.scatter(
                points[:, 0],
                points[:, 1],
                c=np.log2(RATIOS),
                cmap="coolwarm",
                s=22,
                zorder=3,
                edgecolors="0.3",
            )
            axis.set(xlabel="first loss", ylabel="second loss")
            axis.set_title(f"{name}  ·  {100 * share_of_front(points, first_scale):.0f}%")
        legend(
            figure,
            Line2D([], [], color="black", linewidth=1.5, label="Pareto front"),
            Line2D(
                [],
                [],
                color=PALETTE[1],
                marker="o",
                linewidth=0,
                label="the first task counts more",
            ),
            Line2D([], [], color=PALETTE[0], marker="o", linewidth=0, label="the second"),
        )
    return figure

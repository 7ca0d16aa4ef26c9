"""Three equations whose solution is known, and the points at which a network is held against them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .fields import FieldNet

__all__ = ["Beltrami", "Burgers", "Equation", "Kovasznay", "latin_hypercube"]


def latin_hypercube(count: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """Points in [0, 1)^D of which each of n slices of every coordinate holds one: ``(n, D)`` float32.

    M. D. McKay, R. J. Beckman, W. J. Conover, Technometrics 21(2), 1979.
    """
    slices = [torch.randperm(count, generator=generator) for _ in range(dimensions)]
    within = torch.rand((count, dimensions), generator=generator)
    return (torch.stack(slices, dim=1) + within) / count


class Equation(ABC):
    """An equation in a box, with the values of its solution on the edges and, if there is a time, at 0.

    Attributes:
        title: With its parameters.
        box: Least and largest value of each coordinate; the time is the last one.
        space: The number of coordinates that are no time.
        components: C, what the field consists of.
        twice: The coordinates by which a residual differentiates twice.
    """

    title: ClassVar[str]
    box: ClassVar[tuple[tuple[float, float], ...]]
    space: ClassVar[int]
    components: ClassVar[int]
    twice: ClassVar[tuple[int, ...]]

    @abstractmethod
    def solution(self, points: Tensor) -> Tensor:
        """``(n, D)`` to ``(n, C)``."""

    @abstractmethod
    def residuals(self, value: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
        """What is zero where the equations hold, each ``(n,)``.

        Args:
            value: The field, ``(n, C)``.
            first: Its derivatives by all coordinates, ``(D, n, C)``.
            second: Those by :attr:`twice`, taken twice, ``(K, n, C)``.
        """

    @abstractmethod
    def test_points(self) -> Tensor:
        """Where errors are measured, ``(n, D)`` float64."""

    def known(self, kind: str, points: Tensor) -> Tensor:
        """The solution where it is given: ``kind`` is ``"boundary"`` or ``"initial"``."""
        return self.solution(points)

    def draw(self, kind: str, count: int, generator: torch.Generator) -> Tensor:
        """Points ``(count, D)`` float32: ``"residual"`` inside, ``"boundary"``, or ``"initial"`` at time 0."""
        lower, upper = (torch.tensor(ends) for ends in zip(*self.box, strict=True))
        shares = latin_hypercube(count, len(self.box), generator)
        if kind == "initial":
            shares[:, self.space :] = 0.0
        elif kind == "boundary":
            self._to_edges(shares, (upper - lower)[: self.space].tolist())
        return lower + (upper - lower) * shares

    def _to_edges(self, shares: Tensor, lengths: Sequence[float]) -> None:
        """Moves points to the edges of the box in space, as many as an edge is long; in one dimension to its ends."""
        start = 0
        for free, length in enumerate(lengths):
            last = free == self.space - 1
            end = len(shares) if last else start + int(len(shares) * length / sum(lengths))
            fixed = [k for k in range(self.space) if k != free or self.space == 1]
            for place, k in enumerate(fixed):
                shares[start:end, k] = (torch.arange(end - start) >> place) % 2
            start = end

    def loss(
        self, kind: str, net: FieldNet, counts: Mapping[str, int], generator: torch.Generator
    ) -> Tensor:
        """The loss of one kind of points, newly drawn: 0-d.

        Args:
            kind: ``"residual"``, mean squares of all residuals, added; ``"boundary"``, ``"initial"``: mean squared
                difference from the solution; two with a ``+``: that of the points of both.
            net: The field.
            counts: How many points of each kind.
            generator: Decides where they are.
        """
        if kind == "residual":
            points = self.draw(kind, counts[kind], generator)
            found = self.residuals(*net.derivatives(points, self.twice))
            return torch.stack([each.square().mean() for each in found]).sum()
        parts = {part: self.draw(part, counts[part], generator) for part in kind.split("+")}
        wanted = torch.cat([self.known(part, points) for part, points in parts.items()])
        return nn.functional.mse_loss(net(torch.cat(list(parts.values()))), wanted)


def _grid(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _line(low: float, high: float, count: int) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64)


class Burgers(Equation):
    """A sine wave that steepens into a shock: ``u_t + u u_x = ν u_xx``, ``u = -sin πx`` at t = 0, 0 at x = ±1.

    Its solution is the transformation of Cole and Hopf, an integral over a Gaussian, here summed on a uniform grid:
    E. Hopf, "The partial differential equation u_t + u u_x = μ u_xx", Comm. Pure Appl. Math. 3, 1950.
    """

    title = "Burgers' equation, ν = 0.01/π"
    box = ((-1.0, 1.0), (0.0, 1.0))
    space = 1
    components = 1
    twice = (0,)
    viscosity: ClassVar[float] = 0.01 / math.pi

    def solution(self, points: Tensor) -> Tensor:
        """See :class:`Equation`; to 1e-12 in float64."""
        double = points.double()
        x, t = double[:, :1], double[:, 1:]
        z = _line(-12.0, 12.0, 481)
        at = math.pi * (x - 2 * (self.viscosity * t).sqrt() * z)
        weights = torch.softmax(-z.square() - at.cos() / (2 * math.pi * self.viscosity), dim=1)
        u: Tensor = -(weights * at.sin()).sum(dim=1, keepdim=True)
        return u.to(points.dtype)

    def known(self, kind: str, points: Tensor) -> Tensor:
        """See :class:`Equation`; without the integral."""
        x = points[:, :1]
        return -(math.pi * x).sin() if kind == "initial" else torch.zeros_like(x)

    def residuals(self, value: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
        """See :class:`Equation`."""
        u, u_x, u_t, u_xx = (each.squeeze(-1) for each in (value, *first, *second))
        return [u_t + u * u_x - self.viscosity * u_xx]

    def test_points(self) -> Tensor:
        """See :class:`Equation`; the middles of 256 cells at 100 times."""
        return _grid([_line(-1 + 1 / 256, 1 - 1 / 256, 256), _line(0.0, 1.0, 100)])


class Kovasznay(Equation):
    """A steady flow behind a grid: the Navier-Stokes equations of u, v, p at Reynolds number 40.

    ``u = 1 - e^{λx} cos 2πy``, ``v = λ/2π e^{λx} sin 2πy``, ``p = (1 - e^{2λx})/2`` with ``λ = Re/2 - √(Re²/4 + 4π²)``.
    L. I. G. Kovasznay, "Laminar flow behind a two-dimensional grid", Proc. Camb. Phil. Soc. 44, 1948.
    """

    title = "Kovasznay flow, Re = 40"
    box = ((-0.5, 1.0), (-0.5, 1.5))
    space = 2
    components = 3
    twice = (0, 1)
    reynolds: ClassVar[float] = 40.0

    def solution(self, points: Tensor) -> Tensor:
        """See :class:`Equation`."""
        rate = self.reynolds / 2 - math.sqrt(self.reynolds**2 / 4 + 4 * math.pi**2)
        x, angle = points[:, 0], 2 * math.pi * points[:, 1]
        grown = (rate * x).exp()
        u = 1 - grown * angle.cos()
        v = rate / (2 * math.pi) * grown * angle.sin()
        return torch.stack([u, v, (1 - grown.square()) / 2], dim=1)

    def residuals(self, value: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
        """See :class:`Equation`; two of momentum, one of mass."""
        return _navier_stokes(value, first[:2], second, 1 / self.reynolds)

    def test_points(self) -> Tensor:
        """See :class:`Equation`; 27 times 37."""
        return _grid([_line(*self.box[0], 27), _line(*self.box[1], 37)])


class Beltrami(Equation):
    """A decaying flow in three dimensions: the Navier-Stokes equations of u, v, w, p at Reynolds number 1.

    ``u = -(e^x sin(y + z) + e^z cos(x + y)) e^{-t}``, v and w with x, y, z moved on, and
    ``p = -½ e^{-2t} Σ (e^{2x} + 2 sin(x + y) cos(z + x) e^{y + z})`` over the three. C. R. Ethier,
    D. A. Steinman, "Exact fully 3D Navier-Stokes solutions for benchmarking", Int. J. Numer. Methods Fluids
    19, 1994, with a = d = 1.
    """

    title = "Beltrami flow, Re = 1"
    box = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0))
    space = 3
    components = 4
    twice = (0, 1, 2)

    def solution(self, points: Tensor) -> Tensor:
        """See :class:`Equation`."""
        x, y, z, t = points.unbind(dim=1)
        flow, pressure = [], torch.zeros_like(x)
        for a, b, c in ((x, y, z), (y, z, x), (z, x, y)):
            flow.append(-(a.exp() * (b + c).sin() + c.exp() * (a + b).cos()) * (-t).exp())
            pressure = pressure + (2 * a).exp()
            pressure = pressure + 2 * (a + b).sin() * (c + a).cos() * (b + c).exp()
        return torch.stack([*flow, -pressure / 2 * (-2 * t).exp()], dim=1)

    def residuals(self, value: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
        """See :class:`Equation`; three of momentum, one of mass."""
        *momentum, mass = _navier_stokes(value, first[:3], second, 1.0)
        return [*(each + first[3, :, k] for k, each in enumerate(momentum)), mass]

    def test_points(self) -> Tensor:
        """See :class:`Equation`; 7 times 7 times 8 at five times."""
        counts = (7, 7, 8, 5)
        return _grid([_line(*ends, n) for ends, n in zip(self.box, counts, strict=True)])


def _navier_stokes(value: Tensor, first: Tensor, second: Tensor, viscosity: float) -> list[Tensor]:
    """Of a steady flow: ``Σ_j u_j ∂_j u_k + ∂_k p - ν Δ u_k`` for each component, and ``Σ_k ∂_k u_k``."""
    count = len(first)
    momentum = [
        (value[:, :count].T * first[:, :, k]).sum(dim=0)
        + first[k, :, count]
        - viscosity * second[:, :, k].sum(dim=0)
        for k in range(count)
    ]
    mass = torch.stack([first[k, :, k] for k in range(count)]).sum(dim=0)
    return [*momentum, mass]

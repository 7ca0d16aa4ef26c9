"""A small tanh network of space and time, whose derivatives are carried along with its value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["FieldNet"]


class FieldNet(nn.Module):
    """Points to a field: tanh layers of one width, the last layer linear.

    Weights are drawn from Glorot's normal distribution, every bias is 0.001, as in the experiments of Liu, Chu,
    Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025.

    Args:
        inputs: D, the coordinates of a point.
        outputs: C, the components of the field.
        width: Units of a hidden layer.
        hidden: Number of hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 50, hidden: int = 5) -> None:
        super().__init__()
        sizes = [inputs, *[width] * hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_normal_(layer.weight)
            nn.init.constant_(layer.bias, 0.001)

    def forward(self, points: Tensor) -> Tensor:
        """``(n, D)`` to ``(n, C)``."""
        first, *others = self.layers
        value: Tensor = first(points)
        for layer in others:
            value = layer(value.tanh())
        return value

    def derivatives(self, points: Tensor, twice: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The field with its derivatives by the coordinates.

        They are carried forward with the value, layer by layer: ``y = tanh z``, ``y_k = y' z_k`` and
        ``y_kk = y' z_kk + y'' z_k²`` with ``y' = 1 - y²``, ``y'' = -2 y y'``. Nothing is differentiated for them, so
        a backward of what is made of them goes through one graph, not three.

        Args:
            points: ``(n, D)``.
            twice: K coordinates by which to differentiate twice.

        Returns:
            The field ``(n, C)``, its first derivatives ``(D, n, C)``, and the second ones ``(K, n, C)``.
        """
        input, *others = self.layers
        assert isinstance(input, nn.Linear)
        chosen = list(twice)
        value = input(points)
        first = input.weight.T.unsqueeze(1)  # (D, 1, width), the same for all points
        second: Tensor | None = None
        for layer in others:
            assert isinstance(layer, nn.Linear)
            value = value.tanh()
            slope = 1 - value * value
            bend = -2 * value * slope
            curved = bend * first[chosen].square()
            second = curved if second is None else curved.addcmul(slope, second)
            first = slope * first
            value = layer(value)
            first, second = first @ layer.weight.T, second @ layer.weight.T
        assert second is not None
        return value, first, second

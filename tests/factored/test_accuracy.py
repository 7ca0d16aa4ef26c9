"""In float32, G is as exact by factors as by rows, also where gradients nearly cancel."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mtl_ops import ops
from mtl_ops.gradients.differentiate import differentiate
from mtl_ops.gradients.factored.find import Factoring
from mtl_ops.gradients.layout import find_layout
from mtl_ops.gradients.tasks import read_losses


def opposed(distance: float) -> tuple[nn.Module, Tensor, list[Tensor]]:
    """A network, its inputs and heads, of which the second is the first with the other sign, but for the third."""
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(64, 64), nn.Tanh())])
    heads = torch.randn(64, 2)
    return net, torch.randn(128, 64), [heads[:, 0], heads[:, 1], torch.tensor(distance)]


def losses_of(net: nn.Module, data: Tensor, heads: list[Tensor]) -> list[Tensor]:
    features = net(data)
    first = (features @ heads[0]).tanh().mean()
    other = (features @ heads[1]).tanh().mean()
    return [first, -first + heads[2] * other]


@pytest.mark.parametrize("distance", [1.4e-3, 1.4e-4])
def test_almost_opposite_gradients(distance: float) -> None:
    net, data, heads = opposed(distance)
    exact = _gram(copy.deepcopy(net).double(), data.double(), [h.double() for h in heads], False)
    cosine = exact[0, 1] / (exact[0, 0] * exact[1, 1]).sqrt()
    assert 0 < cosine + 1 < 3 * distance**2
    ones = torch.ones(2, dtype=torch.float64)
    true = ones @ exact @ ones

    def error(factored: bool) -> float:
        gram = _gram(net, data, heads, factored)
        return abs((ones @ gram @ ones / true).item() - 1)

    assert error(factored=True) < 2 * error(factored=False) + 1e-6
    assert error(factored=True) < 1e-2


def _gram(net: nn.Module, data: Tensor, heads: list[Tensor], factored: bool) -> Tensor:
    params = [param for param in net.parameters() if param.dim() > 1]
    tasks = read_losses(losses_of(net, data, heads))
    if not factored:
        return ops.gram(differentiate(tasks, params), 2)[0]
    factors = Factoring("always").factors(tasks, params, retain_graph=False)
    assert factors is not None
    assert len(factors.factors) == 3
    return factors.gram(find_layout(factors.reached, 2))[0]

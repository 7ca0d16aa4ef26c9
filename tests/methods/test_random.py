"""Random loss weighting."""

from __future__ import annotations

import math

import pytest
import torch
from multitask import Net, batch, wrap

import mtl_ops
from mtl_ops import MultiTaskOptimizer
from mtl_ops.methods import Random

aggregation = pytest.importorskip("torchjd.aggregation")


def test_draws_what_torchjd_draws() -> None:
    for seed in range(200):
        tasks = 1 + seed % 9
        torch.manual_seed(seed)
        found = Random().weights(None, torch.ones(tasks))
        torch.manual_seed(seed)
        wanted = aggregation.RandomWeighting()(torch.ones(tasks, 3, dtype=torch.float64))
        assert torch.allclose(found, wanted, rtol=1e-14)


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_is_on_the_simplex_and_even_on_average(distribution: str) -> None:
    torch.manual_seed(0)
    method = Random(distribution=distribution)
    drawn = torch.stack([method.weights(None, torch.ones(4)) for _ in range(4000)])
    assert (drawn > 0).all()
    assert torch.allclose(drawn.sum(dim=1), torch.ones(4000, dtype=torch.float64))
    assert (drawn.mean(dim=0) - 0.25).abs().max() < 0.02
    if distribution == "dirichlet":  # variance of a coordinate of the uniform distribution
        assert float(drawn.var()) == pytest.approx(3 / (16 * 5), rel=0.1)


def test_draws_can_be_handed_in() -> None:
    draws = torch.tensor([0.0, math.log(3.0)])
    assert Random().weights(None, draws=draws).tolist() == pytest.approx([0.25, 0.75])
    dirichlet = Random(distribution="dirichlet")
    found = dirichlet.weights(None, torch.ones(2), draws=torch.tensor([1.0, 3.0]))
    assert found.tolist() == [0.25, 0.75]
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert mtl_ops.merge(rows, "random", draws=draws).tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_a_loss_that_is_not_finite_takes_no_part(distribution: str) -> None:
    method = Random(distribution=distribution)
    w = method.weights(None, torch.tensor([1.0, torch.nan, 2.0, torch.inf]))
    assert w[1] == w[3] == 0
    assert float(w.sum()) == pytest.approx(1)
    assert not method.weights(None, torch.full((2,), torch.nan)).any()


def test_the_optimizers_generator_decides() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        net = Net()
        generator = torch.Generator().manual_seed(seed)
        optimizer = wrap(net, "random", generator=generator)
        assert isinstance(optimizer, MultiTaskOptimizer)
        found = []
        for step in range(3):
            optimizer.zero_grad()
            optimizer.backward(net.losses(batch(step)))
            found.append(optimizer.report.weights.clone())
        return found

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not torch.equal(weights(3)[0], weights(4)[0])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`distribution` should be one of 'normal', 'dirichlet'"):
        Random(distribution="uniform")
    with pytest.raises(ValueError, match=r"`draws` should have shape \(2,\). Found shape \(3,\)"):
        Random().weights(None, torch.ones(2), draws=torch.ones(3))
    with pytest.raises(TypeError, match="needs the losses"):
        Random().weights(None)

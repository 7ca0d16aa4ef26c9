"""The weights that a loss of all tasks stands for: its derivatives, by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mtl_ops.methods import Method


def some_losses(seeds: int = 40) -> Iterator[Tensor]:
    """Positive float64 losses of 1 to 9 tasks, over up to 8 decades."""
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        tasks = 1 + seed % 9
        decades = (0.0, 1.0, 4.0)[seed % 3]
        spread = 2 * torch.rand(tasks, generator=generator, dtype=torch.float64) - 1
        yield (0.5 + torch.rand(tasks, generator=generator, dtype=torch.float64)) * 10.0 ** (
            decades * spread
        )


def derivative(scalarise: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    """``∂/∂losses`` of a scalar, by autograd."""
    leaf = losses.clone().requires_grad_()
    return torch.autograd.grad(scalarise(leaf), leaf)[0]


def assert_derivative(
    weights: Tensor, scalarise: Callable[[Tensor], Tensor], losses: Tensor, rtol: float = 1e-12
) -> None:
    """The weights are the derivatives of the scalar by the losses."""
    expected = derivative(scalarise, losses)
    torch.testing.assert_close(
        weights, expected, rtol=rtol, atol=rtol * float(expected.abs().max())
    )


def assert_leaves_out(method: Method, losses: Tensor, **given: Tensor) -> None:
    """A task whose loss is not finite has the weight 0, and the others' are as if it were not there."""
    for nothing in (torch.nan, torch.inf):
        extended = torch.cat([losses[:1], torch.full_like(losses[:1], nothing), losses[1:]])
        weights = method.weights(None, extended, **given)
        assert weights[1] == 0.0
        others = torch.cat([weights[:1], weights[2:]])
        torch.testing.assert_close(others, method.weights(None, losses, **given))


def assert_needs_losses(method: Method) -> None:
    """Without losses there are no weights, and one says so."""
    with pytest.raises(TypeError, match="needs the losses"):
        method.weights(None, None)
    with pytest.raises(ValueError, match=r"should have shape \(T,\)"):
        method.weights(None, torch.ones(2, 2))

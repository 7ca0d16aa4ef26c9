"""Smooth Tchebycheff scalarization, in both forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scalarised import assert_derivative, assert_leaves_out, assert_needs_losses, some_losses
from torch import Tensor

from mtl_ops.methods import STCH


def linear(losses: Tensor, mu: float, preference: Tensor, ideal: Tensor) -> Tensor:
    return mu * (preference * (losses - ideal) / mu).logsumexp(dim=0)


def logarithmic(losses: Tensor, mu: float, preference: Tensor, nadir: Tensor) -> Tensor:
    return len(losses) * mu * (preference * (losses / nadir).log() / mu).logsumexp(dim=0)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 20.0])
class TestForms:
    def test_linear(self, mu: float) -> None:
        for losses in some_losses():
            uniform = torch.full_like(losses, 1 / len(losses))
            weights = STCH(mu=mu).weights(None, losses)
            zero = torch.zeros_like(losses)
            assert_derivative(weights, lambda x, u=uniform, z=zero: linear(x, mu, u, z), losses)
            torch.testing.assert_close(weights.sum() * len(losses), torch.ones_like(losses[0]))

    def test_linear_with_all_parameters(self, mu: float) -> None:
        for losses in some_losses():
            preference, ideal = losses.flip(0) / losses.sum() + 0.1, 0.3 * losses
            method = STCH(mu=mu, weights=preference, reference=ideal.tolist())
            assert_derivative(
                method.weights(None, losses),
                lambda x, p=preference, z=ideal: linear(x, mu, p, z),
                losses,
            )

    def test_logarithmic(self, mu: float) -> None:
        for losses in some_losses():
            one = torch.ones_like(losses)
            weights = STCH(mu=mu, form="log").weights(None, losses)
            assert_derivative(weights, lambda x, o=one: logarithmic(x, mu, o, o), losses)
            torch.testing.assert_close(weights @ losses, one.sum())

    def test_logarithmic_with_all_parameters(self, mu: float) -> None:
        for losses in some_losses():
            preference, nadir = losses.flip(0) / losses.sum() + 0.1, 3.0 * losses.flip(0)
            method = STCH(mu=mu, weights=preference, reference=nadir, form="log")
            assert_derivative(
                method.weights(None, losses),
                lambda x, p=preference, z=nadir: logarithmic(x, mu, p, z),
                losses,
            )


def test_agrees_with_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    for losses in some_losses():
        preference = losses.flip(0) / losses.sum()
        peer = scalarization.STCH(mu=0.3, weights=preference, reference=0.1 * losses)
        method = STCH(mu=0.3, weights=preference, reference=0.1 * losses)
        assert_derivative(method.weights(None, losses), peer, losses)
        assert_derivative(STCH(mu=0.3).weights(None, losses), scalarization.STCH(mu=0.3), losses)


def test_agrees_with_the_official_loss() -> None:
    """With its nadir point measured before, and its shift by the largest term."""

    def official(losses: Tensor, nadir: Tensor, mu: float) -> Tensor:
        logs = torch.log(losses / nadir + 1e-20)
        shifted = logs - logs.max().detach()
        return mu * torch.log(torch.sum(torch.exp(shifted / mu))) * len(losses)

    for losses in some_losses():
        nadir = 2.0 * losses.flip(0)
        weights = STCH(mu=0.7, reference=nadir, form="log").weights(None, losses)
        assert_derivative(weights, lambda x, z=nadir: official(x, z, 0.7), losses)


@pytest.mark.parametrize("form", ["linear", "log"])
def test_leaves_out(form: Any) -> None:
    for losses in some_losses():
        assert_leaves_out(STCH(mu=0.5, form=form), losses)
    assert_needs_losses(STCH(form=form))
    method = STCH(weights=[0.2, 0.3, 0.5], reference=[1.0, 2.0, 3.0], form=form)
    others = STCH(weights=[0.2, 0.5], reference=[1.0, 3.0], form=form)
    weights = method.weights(None, torch.tensor([4.0, torch.nan, 5.0]))
    torch.testing.assert_close(weights[[0, 2]], others.weights(None, torch.tensor([4.0, 5.0])))
    assert weights[1] == 0.0


def test_signs() -> None:
    losses = torch.tensor([1.0, 0.0, -1.0])
    assert (STCH().weights(None, losses) > 0).all()
    assert STCH(form="log").weights(None, losses).isnan().all()
    assert STCH(form="log").weights(None, losses[:2]).isnan().all()


def test_validation() -> None:
    with pytest.raises(ValueError, match="`mu` should be positive"):
        STCH(mu=0.0)
    with pytest.raises(ValueError, match="`form` should be one of 'linear', 'log'"):
        STCH(form="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`weights` should hold positive numbers"):
        STCH(weights=[0.0, 1.0])
    with pytest.raises(ValueError, match="`reference` should hold positive numbers"):
        STCH(reference=[-1.0, 1.0], form="log")
    with pytest.raises(ValueError, match="one number for each of 3 tasks"):
        STCH(weights=[1.0, 1.0]).weights(None, torch.ones(3))

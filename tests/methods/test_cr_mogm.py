"""CR-MOGM around other methods."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from matrices import cases
from multitask import NAMES, Net, batch, wrap
from resuming import assert_forgets, assert_resumes, saved_and_loaded

import mtl_ops
from mtl_ops.methods import CRMOGM, MoCo, Random, Uncertainty


@pytest.mark.parametrize("name", ["mgda", "cagrad", "nash_mtl", "mean"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_smooths_gram_methods(name: str, alpha: float) -> None:
    method, inner = CRMOGM(method=name, alpha=alpha), mtl_ops.methods.get(name)
    smooth = None
    for case in cases(["random", "conflict"], sizes=(4,), seeds=3):
        fresh = inner.weights(case.gram[0])
        smooth = fresh if smooth is None else alpha * smooth + (1 - alpha) * fresh
        torch.testing.assert_close(method.weights(case.gram[0]), smooth, rtol=1e-12, atol=1e-14)


def test_agrees_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer = aggregation.CRMOGMWeighting(aggregation.UPGradWeighting(), alpha=0.8)
    upgrad = mtl_ops.methods.get("upgrad", scaling="frobenius", reg_eps=1e-4, norm_eps=1e-4)
    method = CRMOGM(method=upgrad, alpha=0.8)
    for case in cases(["random", "conflict"], sizes=(5,), seeds=4):
        expected = peer(case.gram[0])
        torch.testing.assert_close(method.weights(case.gram[0]), expected, rtol=1e-8, atol=1e-9)


def test_smooths_loss_methods_with_one_backward() -> None:
    net, passes = Net(), []
    net.trunk[0].weight.register_hook(lambda grad: passes.append(grad))
    optimizer = wrap(net, CRMOGM(method="geometric", alpha=0.5), lr=0.3)
    smooth = None
    for step in range(4):
        losses = net.losses(batch(step))
        optimizer.zero_grad()
        optimizer.backward(losses)
        optimizer.step()
        values = torch.stack([loss.detach().squeeze() for loss in losses.values()])
        fresh = mtl_ops.methods.get("geometric").weights(None, values)
        smooth = fresh if smooth is None else 0.5 * (smooth + fresh)
        assert optimizer.report.weights is not None
        torch.testing.assert_close(optimizer.report.weights[0], smooth)
    assert len(passes) == 4


def test_keeps_the_simplex() -> None:
    method = CRMOGM(method="mgda")
    for case in cases(["random", "conflict", "graded"], sizes=(6,)):
        weights = method.weights(case.gram[0])
        assert float(weights.sum()) == pytest.approx(1.0)
        assert (weights >= 0).all()


def test_absent_tasks_keep_their_weight_and_scales_come_afterwards() -> None:
    method = CRMOGM(method="mean", alpha=0.5)
    gram = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    whole = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(method.solve(gram, whole, None), whole / 3)
    some = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    found = method.solve(gram, some, None)
    torch.testing.assert_close(found, some * (1 / 3 + 1 / 2) / 2)
    torch.testing.assert_close(
        method.smooth, torch.tensor([[5 / 12, 1 / 3, 5 / 12]], dtype=torch.float64)
    )


def test_what_is_not_finite_leaves_the_memory_alone() -> None:
    method = CRMOGM(method="mean")
    method.weights(torch.eye(2))
    assert method.weights(torch.full((2, 2), torch.nan)).isnan().all()
    assert method.smooth is not None
    assert method.smooth.tolist() == [[0.5, 0.5]]


def test_what_the_other_method_learns_is_learned() -> None:
    net = Net()
    optimizer = wrap(net, CRMOGM(method=Uncertainty(), alpha=0.5), tasks=NAMES)
    inner = optimizer.method
    assert isinstance(inner, CRMOGM)
    assert optimizer.param_groups[-1]["params"] == inner.method.learnable(3, torch.device("cpu"))
    optimizer.backward(net.losses(batch()))
    assert optimizer.param_groups[-1]["params"][0].grad is not None


def test_what_the_other_method_draws_comes_from_the_optimizer() -> None:
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        net = Net()
        optimizer = wrap(net, CRMOGM(method=Random()), generator=generator)
        optimizer.backward(net.losses(batch()))
        found.append(optimizer.report.weights)
        assert copy.deepcopy(optimizer).method.generator is not None
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0)


def test_observes_what_the_other_method_observes() -> None:
    assert CRMOGM(method="famo").observes
    method = CRMOGM(method="mean")
    assert not method.observes
    with pytest.raises(TypeError, match="'mean' has no use for losses after the step"):
        method.observe(torch.ones(2))


def test_given_is_for_the_other_method() -> None:
    method = CRMOGM(method="random")
    losses, draws = torch.ones(2), torch.tensor([0.0, 1.0])
    found = method.weights(None, losses, draws=draws)
    torch.testing.assert_close(found, draws.double().softmax(dim=0))


def test_resumes() -> None:
    assert_resumes(lambda: CRMOGM(method="nash_mtl"))
    assert_resumes(lambda: CRMOGM(method="famo", alpha=0.5))
    assert_resumes(lambda: CRMOGM(method="uncertainty"), tasks=NAMES)
    assert_resumes(lambda: CRMOGM(method=CRMOGM(method="mgda")), granularity="group")


def test_forgets() -> None:
    assert_forgets(lambda: CRMOGM(method="famo", alpha=0.5))


def test_state_of_another_method_is_refused() -> None:
    state: Any = saved_and_loaded(CRMOGM(method="mean").state_dict())
    with pytest.raises(ValueError, match=r"should be of method 'sum' smoothed\. Found 'mean'"):
        CRMOGM(method="sum").load_state_dict(state)
    with pytest.raises(ValueError, match="Parameter `state` should hold"):
        CRMOGM(method="sum").load_state_dict({})


def test_validation() -> None:
    with pytest.raises(ValueError, match=r"`alpha` should be in \[0, 1\)"):
        CRMOGM(method="mean", alpha=1.0)
    with pytest.raises(ValueError, match="should be one of"):
        CRMOGM(method="nothing")
    with pytest.raises(TypeError, match="should be a name or a method"):
        CRMOGM(method=3)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"from the Gram matrix or the losses alone\. Found 'moco'"
    ):
        CRMOGM(method=MoCo())
    assert repr(CRMOGM(method="mean")) == "CRMOGM(method=Mean(), alpha=0.9)"

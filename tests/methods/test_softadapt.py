"""SoftAdapt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from resuming import assert_forgets, assert_resumes, saved_and_loaded
from scalarised import assert_needs_losses, some_losses
from torch import Tensor

import mtl_ops
from mtl_ops.methods import SoftAdapt
from mtl_ops.reference.losses import backward_difference

VARIANTS = ("original", "normalised", "loss_weighted")


@pytest.mark.parametrize("order", range(1, 7))
def test_differences_are_exact_for_polynomials_of_their_order(order: int) -> None:
    factors = backward_difference(order)
    assert len(factors) == order + 1
    for power in range(order + 1):
        slope = sum(c * float(k) ** power for k, c in zip(range(-order, 1), factors, strict=True))
        assert slope == pytest.approx(float(power == 1), abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("beta", [0.0, 0.1, -2.0, 50.0])
def test_formula_of_quadratic_losses(beta: float, variant: Any, order: int) -> None:
    """``L_i(t) = a_i (t - 9)² + 1``, whose slopes are known."""
    method = SoftAdapt(beta=beta, variant=variant, order=order)
    a = torch.linspace(0.1, 2.0, 4, dtype=torch.float64)
    values = [a * (t - 9) ** 2 + 1 for t in range(6)]
    for t, losses in enumerate(values):
        found = method.weights(None, losses)
        if t < order:
            assert found.tolist() == [0.25] * 4
            continue
        slopes = 2 * a * (t - 9) if order > 1 else a * ((t - 9) ** 2 - (t - 10) ** 2)
        if variant == "normalised":
            slopes = slopes / slopes.abs().sum()
        wanted = (beta * slopes).softmax(dim=0)
        if variant == "loss_weighted":
            wanted = wanted * torch.stack(values[t - order : t + 1]).mean(dim=0)
            wanted = wanted / wanted.sum()
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_lies_on_the_simplex(variant: Any) -> None:
    for tasks in (1, 2, 7, 64):
        method = SoftAdapt(beta=3.0, variant=variant)
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            losses = torch.rand(tasks, generator=generator, dtype=torch.float64) * 1e4
            w = method.weights(None, losses)
            assert (w >= 0).all()
            assert float(w.sum()) == pytest.approx(1)


def test_a_task_that_does_not_fall_gets_more() -> None:
    for variant in VARIANTS:
        method = SoftAdapt(beta=1.0, variant=variant)  # type: ignore[arg-type]
        for losses in ([2.0, 2.0, 2.0], [1.0, 1.9, 2.0]):
            w = method.weights(None, torch.tensor(losses))
        assert w[2] > w[1] > w[0]


def test_what_is_added_to_all_losses_does_not_matter() -> None:
    one, other = SoftAdapt(), SoftAdapt()
    for losses in some_losses(1):
        for call in range(4):
            now = losses * 0.5**call
            w, v = one.weights(None, now), other.weights(None, now + 100.0 * call)
            torch.testing.assert_close(w, v, rtol=1e-9, atol=0.0)


class TestAbsentTasks:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_get_nothing_and_keep_their_values(self, variant: Any) -> None:
        method, two = (SoftAdapt(beta=1.0, variant=variant) for _ in range(2))
        method.weights(None, torch.tensor([3.0, 4.0, 5.0]))
        two.weights(None, torch.tensor([3.0, 5.0]))
        for call in range(3):
            now = torch.tensor([2.0 - 0.5 * call, torch.nan, 4.0])
            w = method.weights(None, now)
            assert w[1] == 0
            torch.testing.assert_close(w[::2], two.weights(None, now[::2]))
        assert method.recent is not None
        assert method.recent[1, 1] == 4.0
        w = method.weights(None, torch.tensor([0.9, 1.0, 4.0]))  # falls by 3 since it was here
        assert w[1] < w[0] < w[2] or variant == "loss_weighted"

    def test_as_long_as_one_has_too_few_values_all_are_the_same(self) -> None:
        method = SoftAdapt(beta=1.0)
        method.weights(None, torch.tensor([1.0, torch.nan]))
        assert method.weights(None, torch.tensor([0.5, 1.0])).tolist() == [0.5, 0.5]
        assert method.weights(None, torch.tensor([0.4, torch.nan])).tolist() == [1.0, 0.0]
        assert method.weights(None, torch.tensor([0.1, 1.0]))[1] > 0.5


class TestDegenerate:
    @pytest.mark.parametrize("tasks", [1, 3, 64])
    def test_equal_weights_are_exact(self, tasks: int) -> None:
        method = SoftAdapt(variant="loss_weighted")
        for _ in range(3):
            assert method.weights(None, torch.zeros(tasks)).tolist() == [1 / tasks] * tasks

    def test_no_slopes(self) -> None:
        for variant in VARIANTS:
            method = SoftAdapt(variant=variant)  # type: ignore[arg-type]
            for _ in range(3):
                w = method.weights(None, torch.tensor([2.0, 2.0]))
            assert w.tolist() == [0.5, 0.5]

    def test_means_of_zero_and_below(self) -> None:
        method = SoftAdapt(variant="loss_weighted")
        for _ in range(2):
            w = method.weights(None, torch.zeros(2))
        assert w.tolist() == [0.5, 0.5]
        for _ in range(2):
            w = method.weights(None, torch.tensor([1.0, -1.0]))
        assert w.isnan().all()

    def test_large_slopes_do_not_overflow(self) -> None:
        method = SoftAdapt(beta=1.0)
        for losses in ([0.0, 0.0], [1e6, 0.0]):
            w = method.weights(None, torch.tensor(losses))
        assert w.tolist() == [1, 0]


def test_memory_is_written_in_place_and_survives_a_file() -> None:
    method, other = SoftAdapt(order=2), SoftAdapt(order=2)
    assert method.state_dict() == {"recent": None}
    losses = list(some_losses(7))[6]
    method.weights(None, losses)
    tensor: Tensor | None = method.recent
    method.weights(None, losses / 2)
    assert method.recent is tensor
    other.load_state_dict(saved_and_loaded(method.state_dict()))
    for factor in (0.4, 0.1):
        now = factor * losses
        assert torch.equal(other.weights(None, now), method.weights(None, now))


def test_training_resumes_and_forgets() -> None:
    assert_resumes(lambda: SoftAdapt(order=2))
    assert_forgets(lambda: SoftAdapt(beta=5.0))


def test_physicsnemo_s_is_a_softmax_of_ratios() -> None:
    """As the docstring says: ``dwa`` with windows of one call, whose weights come one call later."""
    dwa = mtl_ops.methods.DWA(window=1, temperature=1.0)
    calls = [torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.9]), torch.tensor([0.9, 0.1])]
    for losses in calls:
        w = dwa.weights(None, losses.double())
    ratios = (calls[1].double() / calls[0].double()).exp()
    torch.testing.assert_close(w, 2 * ratios / ratios.sum())


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"beta": math.inf}, ValueError, "`beta` should be finite"),
        ({"variant": "soft"}, ValueError, "`variant` should be one of 'original', 'normalised', "),
        ({"order": 0}, ValueError, "`order` should be at least 1"),
        ({"order": 1.0}, TypeError, "`order` should be an integer"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("softadapt", **params)


def test_bad_arguments() -> None:
    assert_needs_losses(SoftAdapt())
    method = SoftAdapt()
    method.weights(None, torch.ones(2))
    with pytest.raises(ValueError, match="the same tasks"):
        method.weights(None, torch.ones(3))

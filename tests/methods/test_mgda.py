"""MGDA; the solvers are tested in ``tests/solvers/test_mgda.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import FAMILIES, cases, make, norms
from merged import assert_same, length
from multitask import Net, batch, wrap
from torch import Tensor

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import MGDA

from .peers import assert_agree


def some_losses(tasks: int) -> Tensor:
    return torch.linspace(0.3, 4.0, tasks, dtype=torch.float64)


def test_frank_wolfe_agrees_with_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer = aggregation.MGDAWeighting()
    # Where several tasks are the worst alike, rounding chooses.
    families = sorted(set(FAMILIES) - {"simplex", "opposite", "parallel", "duplicates_opposite"})
    assert_agree(
        MGDA(solver="frank_wolfe"),
        lambda j: peer(j @ j.T),
        cases(families, sizes=(1, 2, 3, 5, 8), seeds=2),
        rtol=1e-7,
        of_terms=1e-9,
    )


def test_exact_is_shorter_than_torchjd_s() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer, excess = aggregation.MGDAWeighting(), []
    for case in cases(["random", "conflict", "graded"], sizes=(8, 16), seeds=5):
        exact = length(case, MGDA().weights(case.gram[0]))
        excess.append(length(case, peer(case.gram[0])) / exact - 1)
    assert min(excess) >= -1e-9
    assert max(excess) > 1.0  # where one gradient is much shorter than the others, for instance


class TestNormalise:
    @pytest.mark.parametrize("solver", ["exact", "frank_wolfe"])
    @pytest.mark.parametrize("normalise", ["l2", "loss", "loss+"])
    def test_divides_the_gradients_and_answers_for_the_originals(
        self, normalise: Any, solver: Any
    ) -> None:
        for case in cases(["random", "conflict", "graded"], sizes=(1, 2, 5), seeds=3):
            losses = some_losses(case.tasks)
            divisor = torch.ones_like(losses)
            if normalise in ("l2", "loss+"):
                divisor = divisor * norms(case.jacobian)
            if normalise in ("loss", "loss+"):
                divisor = divisor * losses
            divided = case.jacobian / divisor.unsqueeze(1)
            d = divided.T @ MGDA(solver=solver).weights(divided @ divided.T)
            w = MGDA(normalise=normalise, solver=solver).weights(case.gram[0], losses)
            torch.testing.assert_close(case.jacobian.T @ w, d, rtol=1e-6, atol=1e-9)

    def test_l2_does_not_depend_on_lengths_and_weights(self) -> None:
        case = make("random", 4, 0)
        method = MGDA(normalise="l2")
        d = case.jacobian.T @ method.weights(case.gram[0])
        factors = torch.tensor([[1e-3], [1.0], [7.0], [1e4]], dtype=torch.float64)
        torch.testing.assert_close(mtl_ops.merge(factors * case.jacobian, method), d)
        weighed = mtl_ops.merge(case.jacobian, method, task_weights=factors.flatten().tolist())
        torch.testing.assert_close(weighed, d)

    def test_zero_gradients_take_all_as_ever(self) -> None:
        j = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
        for normalise in ("none", "l2"):
            w = MGDA(normalise=normalise).weights(j @ j.T)  # type: ignore[arg-type]
            assert w.tolist() == [0, 1]

    def test_tasks_left_out_stay_out(self) -> None:
        case = make("random", 3, 0)
        gram = case.gram.clone()
        gram[0, 1] = gram[0, :, 1] = torch.nan  # the gradient that is left out
        scale = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
        losses = torch.tensor([1.0, torch.nan, 3.0], dtype=torch.float64)
        for normalise in ("l2", "loss", "loss+"):
            w = MGDA(normalise=normalise).solve(gram, scale, losses)  # type: ignore[arg-type]
            assert w.isfinite().all()
            assert w[0, 1] == 0
            assert (w[0, [0, 2]] > 0).all()

    @pytest.mark.parametrize("value", [torch.inf, torch.nan])
    def test_a_gradient_that_is_not_finite_is_not_left_out(self, value: float) -> None:
        gram = make("random", 3, 0).gram[0].clone()
        gram[1, 1] = value
        assert MGDA(normalise="l2").weights(gram).isnan().all()

    @pytest.mark.parametrize("loss", [0.0, -1.0, torch.nan])
    def test_a_loss_that_is_not_positive_shows(self, loss: float) -> None:
        losses = torch.tensor([1.0, loss, 2.0])
        for normalise in ("loss", "loss+"):
            w = MGDA(normalise=normalise).weights(make("random", 3, 0).gram[0], losses)  # type: ignore[arg-type]
            assert w.isnan().all()

    def test_losses_are_needed(self) -> None:
        with pytest.raises(TypeError, match="Method 'mgda' needs the losses"):
            MGDA(normalise="loss").weights(torch.eye(2))
        assert MGDA().weights(torch.eye(2)).tolist() == pytest.approx([0.5, 0.5])

    def test_says_whether_it_looks_at_losses(self) -> None:
        assert MGDA(normalise="loss").uses_losses
        assert MGDA(normalise="loss+").uses_losses
        assert not MGDA(normalise="l2").uses_losses
        assert not MGDA().uses_losses

    def test_in_training(self) -> None:
        net = Net()
        optimizer = wrap(net, MGDA(normalise="loss+"))
        optimizer.zero_grad()
        losses = net.losses(batch(0, like=net))
        optimizer.backward(losses)
        assert optimizer.report.weights is not None
        assert optimizer.report.weights.isfinite().all()
        assert (optimizer.report.weights >= 0).all()


def test_parameters_of_frank_wolfe() -> None:
    gram = make("random", 8, 0).gram
    found = MGDA(solver="frank_wolfe", epsilon=1e-2, max_iters=7).weights(gram[0])
    wanted = ops.solve_mgda_frank_wolfe(gram, epsilon=1e-2, max_iters=7)[0]
    assert torch.equal(found, wanted)
    assert not torch.equal(found, MGDA(solver="frank_wolfe").weights(gram[0]))


def test_merges_several_sets() -> None:
    chosen = [make("random", 3, seed) for seed in range(3)]
    weights = MGDA().weights(torch.cat([case.gram for case in chosen]))
    for case, w in zip(chosen, weights, strict=True):
        assert_same(case, w, MGDA().weights(case.gram[0]), rtol=0, of_terms=0)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"solver": "fw"}, ValueError, "`solver` should be one of 'exact', 'frank_wolfe'"),
        (
            {"normalise": "l1"},
            ValueError,
            r"`normalise` should be one of 'none', 'l2', 'loss', 'loss\+'",
        ),
        ({"epsilon": 0.0}, ValueError, "`epsilon` should be positive"),
        ({"max_iters": 0}, ValueError, "`max_iters` should be at least 1"),
        ({"max_iters": 1.5}, TypeError, "`max_iters` should be an integer"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("mgda", **params)


def test_nothing_is_given() -> None:
    with pytest.raises(TypeError, match=r"given nothing but gradients.*Found `orders`"):
        mtl_ops.merge(torch.eye(2), "mgda", orders=torch.eye(2))

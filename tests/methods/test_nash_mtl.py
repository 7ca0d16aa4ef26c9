"""Nash-MTL; the solver is tested in ``tests/solvers/test_fairness.py``."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from matrices import cases, make

import mtl_ops
from mtl_ops.methods import NashMTL

from .peers import TAME

aggregation = pytest.importorskip("torchjd.aggregation")
pytest.importorskip("ecos")


def residual(gram: torch.Tensor, w: torch.Tensor) -> float:
    return float((1 - w * (gram @ w)).abs().max())


def test_agrees_with_torchjd_where_that_has_converged() -> None:
    # It solves a sequence of convex programs and stops by an absolute test on the weights: for
    # gradients whose norm is near 1 it has converged, but not always, so its residual is asked.
    count = 0
    for case in cases(TAME, sizes=(2, 3), seeds=15):
        rows = case.jacobian / case.jacobian.norm(dim=1).mean()
        peer = aggregation.NashMTL(n_tasks=case.tasks, max_norm=0.0, optim_niter=40)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = peer.weighting(rows)
        off = residual(rows @ rows.T, wanted)
        if off > 1e-5:
            continue
        found = mtl_ops.merge(rows, NashMTL(max_norm=None))
        assert (found - rows.T @ wanted).norm() <= 100 * (off + 1e-8) * found.norm(), str(case)
        count += 1
    assert count >= 200


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_unlike_torchjds_the_equation_holds_at_every_scale(scale: float) -> None:
    rows = scale * make("random", 4, 0).jacobian
    gram = rows @ rows.T
    assert residual(gram, NashMTL(max_norm=None, reg_eps=0.0).weights(gram)) <= 1e-13


def test_the_limit_and_the_ridge_reach_the_solver() -> None:
    rows = make("random", 4, 0).jacobian
    assert float(mtl_ops.merge(rows, NashMTL()).norm()) == pytest.approx(1, rel=1e-12)
    assert float(mtl_ops.merge(rows, NashMTL(max_norm=0.25)).norm()) == pytest.approx(0.25)
    free = mtl_ops.merge(rows, NashMTL(max_norm=None))
    assert float(free.norm()) == pytest.approx(2, rel=1e-8)
    ridged = mtl_ops.merge(rows, NashMTL(max_norm=None, reg_eps=0.5))
    assert float(ridged.norm()) < 1.9


def test_a_short_update_is_not_stretched() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert float(mtl_ops.merge(rows, "nash_mtl").norm()) <= 1e-4


def test_one_task() -> None:
    # TorchJD raises.
    rows = torch.tensor([[3.0, 4.0]])
    assert mtl_ops.merge(rows, "nash_mtl").tolist() == pytest.approx([0.6, 0.8])


def test_calls_do_not_depend_on_each_other() -> None:
    method, rows = NashMTL(), make("conflict", 5, 0).jacobian
    first = mtl_ops.merge(rows, method)
    mtl_ops.merge(1e5 * make("random", 5, 1).jacobian, method)
    assert torch.equal(mtl_ops.merge(rows, method), first)
    assert method.state_dict() == {}


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"max_norm": 0.0}, ValueError, "`max_norm` should be positive. Found `max_norm = 0.0`"),
        ({"max_norm": -1.0}, ValueError, "`max_norm` should be positive. Found `max_norm = -1.0`"),
        ({"max_norm": math.inf}, ValueError, "`max_norm` should be finite. Found"),
        ({"max_norm": "1"}, TypeError, "`max_norm` should be a positive number. Found"),
        ({"reg_eps": -1e-9}, ValueError, "`reg_eps` should not be negative. Found"),
        ({"reg_eps": "small"}, TypeError, "`reg_eps` should be a number. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("nash_mtl", **params)

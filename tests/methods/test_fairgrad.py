"""FairGrad; the solver is tested in ``tests/solvers/test_fairness.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases, make

import mtl_ops
from mtl_ops.methods import FairGrad, NashMTL

from .peers import TAME

aggregation = pytest.importorskip("torchjd.aggregation")
pytest.importorskip("scipy")


def residual(gram: torch.Tensor, w: torch.Tensor, alpha: float) -> float:
    return float((1 - (gram @ w) * w ** (1 / alpha)).abs().max())


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_agrees_with_torchjd_where_that_has_converged(alpha: float) -> None:
    # It minimises a sum of squares to scipy's tolerances: its error is that of its own residual,
    # amplified where gradients nearly cancel.
    count = 0
    peer = aggregation.FairGradWeighting(alpha=alpha)
    for case in cases(TAME, sizes=(1, 2, 3, 5, 8), seeds=7):
        rows = case.jacobian / case.jacobian.norm(dim=1).mean()
        gram = rows @ rows.T
        wanted = peer(gram)
        off = residual(gram, wanted, alpha)
        if off > 1e-5:
            continue
        found = FairGrad(alpha=alpha, reg_eps=0.0).weights(gram)
        assert residual(gram, found, alpha) <= 1e-10
        d = rows.T @ found
        cancels = float(found @ rows.norm(dim=1) / d.norm())
        allowed = 10 * (off + 1e-12) * cancels**2
        assert (d - rows.T @ wanted).norm() <= allowed * d.norm(), str(case)
        count += 1
    assert count >= 200


def test_alpha_zero_is_the_mean() -> None:
    rows = make("random", 5, 0).jacobian
    assert torch.allclose(mtl_ops.merge(rows, FairGrad(alpha=0)), rows.mean(dim=0))
    assert torch.equal(
        FairGrad(alpha=0).weights(rows @ rows.T), aggregation.FairGradWeighting(0.0)(rows @ rows.T)
    )


def test_alpha_one_is_nash_without_its_limit() -> None:
    gram = make("conflict", 5, 0).gram[0]
    assert torch.equal(FairGrad().weights(gram), NashMTL(max_norm=None).weights(gram))


def test_parameters_reach_the_solver() -> None:
    gram = make("conflict", 5, 0).gram[0]
    answers = [
        FairGrad().weights(gram),
        FairGrad(alpha=2.0).weights(gram),
        FairGrad(reg_eps=0.1).weights(gram),
    ]
    assert len({tuple(w.tolist()) for w in answers}) == 3


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"alpha": -0.5}, ValueError, "`alpha` should not be negative. Found `alpha = -0.5`"),
        ({"alpha": float("inf")}, ValueError, "`alpha` should be finite. Found"),
        ({"alpha": [1.0]}, TypeError, "`alpha` should be a number. Found"),
        ({"reg_eps": -1.0}, ValueError, "`reg_eps` should not be negative. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("fairgrad", **params)

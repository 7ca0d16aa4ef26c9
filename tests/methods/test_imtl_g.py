"""IMTL-G; the solver is tested in ``tests/solvers/test_equal_angle.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases, make, norms

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import IMTLG

from .peers import TAME, assert_agree

aggregation = pytest.importorskip("torchjd.aggregation")


def test_agrees_with_torchjd() -> None:
    # TorchJD inverts G itself, and gives up where |Σv| < 1e-12: sound where norms are alike.
    peer = aggregation.IMTLGWeighting()
    families = (*TAME, "sparse", "duplicates", "rank_deficient_shared", "zero_row")
    chosen = cases(families, sizes=(1, 2, 3, 5, 8), seeds=4)
    assert_agree(IMTLG(), lambda j: peer(j @ j.T), chosen, rtol=1e-7, of_terms=1e-9)


def test_torchjd_loses_short_gradients() -> None:
    case = make("dominated", 3, 0)
    unit = case.jacobian / norms(case.jacobian).unsqueeze(1)

    def spread(w: torch.Tensor) -> float:
        projections = unit @ (case.jacobian.T @ w)
        return float((projections.max() - projections.min()) / projections.abs().max())

    assert spread(IMTLG().weights(case.gram[0])) <= 1e-12
    rows = case.jacobian.clone()
    rows[0] *= 1e3  # now 1e9 times as long as the others
    w = aggregation.IMTLGWeighting()(rows @ rows.T)
    assert spread(torch.cat([1e3 * w[:1], w[1:]])) > 0.1


def test_parameters_reach_the_solver() -> None:
    case = make("near_duplicates", 4, 0)
    found = IMTLG(rank_tol=1e-4).weights(case.gram[0])
    assert torch.equal(found, ops.solve_imtl_g(case.gram, rank_tol=1e-4)[0])
    assert not torch.allclose(found, IMTLG().weights(case.gram[0]), rtol=1e-3)
    uphill = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    uphill += torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    paper = IMTLG(on_ascent="paper").weights(uphill)
    config = IMTLG(on_ascent="config").weights(uphill)
    assert torch.equal(paper, ops.solve_imtl_g(uphill.unsqueeze(0))[0])
    assert torch.equal(config, ops.solve_imtl_g(uphill.unsqueeze(0), avoid_ascent=True)[0])


def test_config_on_ascent() -> None:
    g = torch.Generator().manual_seed(0)
    gone_uphill = 0
    for _ in range(100):
        rows = torch.randn(32, 64, generator=g, dtype=torch.float64)
        rows += 2.0 * torch.randn(1, 64, generator=g, dtype=torch.float64)
        rows *= 10.0 ** (2.0 * torch.rand(32, 1, generator=g, dtype=torch.float64) - 1.0)
        paper = rows @ mtl_ops.merge(rows, IMTLG())
        config = rows @ mtl_ops.merge(rows, IMTLG(on_ascent="config"))
        assert (config > 0).all()
        if (paper < 0).all():
            gone_uphill += 1
        else:
            assert torch.equal(paper, config)
    assert 5 <= gone_uphill <= 50


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"on_ascent": "up"}, ValueError, "`on_ascent` should be one of 'paper', 'config'. Found"),
        ({"rank_tol": -1e-3}, ValueError, "`rank_tol` should not be negative. Found"),
        ({"rank_tol": float("nan")}, ValueError, "`rank_tol` should be finite. Found"),
        ({"rank_tol": "small"}, TypeError, "`rank_tol` should be a number. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("imtl_g", **params)


def test_nothing_else_can_be_given() -> None:
    with pytest.raises(TypeError, match="Found `cross_gram`"):
        IMTLG().weights(torch.eye(2), cross_gram=torch.eye(2))

"""CAGrad; the solver is tested in ``tests/solvers/test_cagrad.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import cases, make
from merged import assert_same

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import CAGrad

from .peers import TAME, assert_agree


@pytest.mark.parametrize("c", [0.2, 0.5, 1.0])
def test_agrees_with_torchjd(c: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    peer = aggregation.CAGradWeighting(c, norm_eps=1e-4)
    assert_agree(
        CAGrad(c=c, norm_eps=1e-4),
        lambda j: peer(j @ j.T),
        cases(sorted(set(TAME) - {"hard_conflict"}), sizes=(1, 2, 3, 5, 8), seeds=2),
        rtol=2e-3,  # it stops an interior point method at 1e-8 of the objective, which is flat
        at_least=60,
    )


def test_torchjd_answers_zero_for_short_gradients() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    j = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.5, 0.1]], dtype=torch.float64)
    peer = aggregation.CAGrad(c=0.5)
    d = mtl_ops.merge(j, "cagrad")
    torch.testing.assert_close(peer(j), d, rtol=1e-4, atol=1e-4)
    assert (peer(1e-3 * j) == 0).all()
    torch.testing.assert_close(mtl_ops.merge(1e-3 * j, "cagrad"), 1e-3 * d)
    assert (mtl_ops.merge(1e-3 * j, CAGrad(norm_eps=1e-4)) == 0).all()


def test_parameters_reach_the_solver() -> None:
    case = make("conflict", 4, 0)
    for params in ({"c": 0.3}, {"rescale": 1}, {"rescale": 2}, {"norm_eps": 10.0}):
        found = CAGrad(**params).weights(case.gram[0])  # type: ignore[arg-type]
        assert torch.equal(found, ops.solve_cagrad(case.gram, **params)[0])  # type: ignore[arg-type]
        assert not torch.equal(found, CAGrad().weights(case.gram[0]))


def test_libmtl_s_scale() -> None:
    case = make("conflict", 4, 0)
    found = CAGrad(rescale=1).weights(case.gram[0])
    assert_same(case, found, CAGrad().weights(case.gram[0]) / 1.25, rtol=1e-12)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"c": -0.1}, ValueError, "`c` should not be negative"),
        ({"c": "0.5"}, TypeError, "`c` should be a number"),
        ({"rescale": 3}, ValueError, "`rescale` should be one of 0, 1, 2. Found"),
        ({"norm_eps": -1e-4}, ValueError, "`norm_eps` should not be negative"),
    ],
)
def test_bad_parameters(params: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("cagrad", **params)


def test_nothing_is_given() -> None:
    with pytest.raises(TypeError, match=r"given nothing but gradients.*Found `c`"):
        mtl_ops.merge(torch.eye(2), "cagrad", c=0.4)

"""Aligned-MTL; the solver is tested in ``tests/solvers/test_equal_angle.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases, make

import mtl_ops
from mtl_ops.methods import AlignedMTL

from .peers import TAME, assert_agree

aggregation = pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize("scale_mode", ["min", "median", "rmse"])
@pytest.mark.parametrize("with_preference", [False, True])
def test_agrees_with_torchjd(scale_mode: str, with_preference: bool) -> None:
    # TorchJD takes the rank of G, and LAPACK's small eigenvalues: sound where norms are alike.
    families = (*TAME, "sparse", "duplicates", "rank_deficient_shared", "zero_row")
    for tasks in (1, 2, 3, 5, 8):
        p = torch.linspace(0.5, 2.0, tasks, dtype=torch.float64) if with_preference else None
        peer = aggregation.AlignedMTLWeighting(p, scale_mode=scale_mode)
        method = AlignedMTL(scale_mode=scale_mode, preference=p)
        assert_agree(
            method,
            lambda j, peer=peer: peer(j @ j.T),
            cases(families, sizes=(tasks,), seeds=8),
            rtol=1e-7,
            of_terms=1e-9,
            at_least=80,
        )


def test_in_float32_torchjd_drops_short_gradients() -> None:
    rows = torch.diag(torch.tensor([1.0, 1e-4]))
    assert mtl_ops.merge(rows, "aligned_mtl").tolist() == pytest.approx([5e-5, 5e-5])
    assert aggregation.AlignedMTL()(rows).tolist() == pytest.approx([0.5, 0.0])


def test_sum_as_in_the_papers_code() -> None:
    case = make("random", 4, 0)
    summed = mtl_ops.merge(case.jacobian, AlignedMTL(preference=[1.0] * 4))
    assert torch.allclose(summed, 4 * mtl_ops.merge(case.jacobian, AlignedMTL()))


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        (
            {"scale_mode": "max"},
            ValueError,
            "`scale_mode` should be one of 'min', 'median', 'rmse'",
        ),
        ({"preference": [float("nan")]}, ValueError, "`preference` should hold one finite number"),
        ({"preference": 3.0}, ValueError, "`preference` should hold one finite number"),
        ({"rank_tol": float("inf")}, ValueError, "`rank_tol` should be finite. Found"),
        ({"rank_tol": True}, TypeError, "`rank_tol` should be a number. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("aligned_mtl", **params)


def test_a_preference_of_other_tasks() -> None:
    with pytest.raises(ValueError, match=r"each of 3 tasks\. Found 2 numbers"):
        mtl_ops.merge(torch.eye(3), AlignedMTL(preference=[1.0, 2.0]))

"""UPGrad and DualProj; the solvers are tested in ``tests/solvers/test_dual_cone.py``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from matrices import FAMILIES, cases, make

import mtl_ops
from mtl_ops import ops
from mtl_ops.methods import DualProj, UPGrad

from .peers import assert_agree

#: Like TorchJD.
PEER: dict[str, Any] = {"scaling": "frobenius", "reg_eps": 1e-4, "norm_eps": 1e-4}

BOTH = pytest.mark.parametrize("name", ["UPGrad", "DualProj"])
CLASSES: dict[str, Any] = {"UPGrad": UPGrad, "DualProj": DualProj}
OPERATORS: dict[str, Any] = {"UPGrad": ops.solve_upgrad, "DualProj": ops.solve_dualproj}


@BOTH
@pytest.mark.parametrize("with_preference", [False, True])
def test_agrees_with_torchjd(name: str, with_preference: bool) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    for tasks in (1, 2, 3, 5, 8):
        p = torch.linspace(0.2, 1.5, tasks, dtype=torch.float64) if with_preference else None
        peer = getattr(aggregation, f"{name}Weighting")(p)
        assert_agree(
            CLASSES[name](preference=p, **PEER),
            lambda j, peer=peer: peer(j @ j.T),
            cases(sorted(FAMILIES), sizes=(tasks,), seeds=2),
            rtol=1e-9,
            of_terms=1e-9,
            at_least=60,
        )


@BOTH
def test_torchjd_ignores_the_conflict_of_short_gradients(name: str) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    j = torch.tensor([[1.0, 0.2, 0.0], [-3.0, 0.5, 0.1]], dtype=torch.float64)
    peer, method = getattr(aggregation, name)(), CLASSES[name]()
    torch.testing.assert_close(peer(1e-3 * j), 1e-3 * j.mean(dim=0))
    torch.testing.assert_close(mtl_ops.merge(1e-3 * j, method), 1e-3 * mtl_ops.merge(j, method))
    assert not torch.allclose(mtl_ops.merge(j, method), j.mean(dim=0), rtol=0.1)


@BOTH
def test_torchjd_runs_over_a_short_gradient(name: str) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    j = torch.tensor([[1.0, 0.1], [-0.01, 0.003]], dtype=torch.float64)
    peer, ours = getattr(aggregation, name)()(j), mtl_ops.merge(j, CLASSES[name]())
    assert float(j[1] @ peer / j[1].norm() / peer.norm()) < -0.5
    assert float(j[1] @ ours / j[1].norm() / ours.norm()) > -1e-4


@BOTH
def test_parameters_reach_the_solver(name: str) -> None:
    case = make("graded_conflict", 4, 0)
    p = [1.0, 0.5, 0.0, 2.0]
    default = CLASSES[name]().weights(case.gram[0])
    for params in (
        {"scaling": "frobenius", "reg_eps": 1e-2},
        {"reg_eps": 0.1},
        {"norm_eps": 1e12},
    ):
        found = CLASSES[name](**params).weights(case.gram[0])
        assert torch.equal(found, OPERATORS[name](case.gram, **params)[0])
        assert not torch.equal(found, default)
    preferred = CLASSES[name](preference=p).weights(case.gram[0])
    tensor = torch.tensor(p, dtype=torch.float64)
    assert torch.equal(preferred, OPERATORS[name](case.gram, preference=tensor)[0])
    assert not torch.equal(preferred, default)


@BOTH
def test_the_preference_is_that_of_the_tasks_that_take_part(name: str) -> None:
    case = make("conflict", 4, 0)
    scale = torch.tensor([[1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    kept = [0, 2, 3]
    p = torch.tensor([1.0, 0.5, 0.2, 2.0], dtype=torch.float64)
    part = case.gram[:, kept][:, :, kept].contiguous()
    found = CLASSES[name](preference=p).solve(case.gram, scale, None)
    assert torch.equal(found[:, kept], OPERATORS[name](part, preference=p[kept]))
    assert torch.equal(
        CLASSES[name]().solve(case.gram, scale, None)[:, kept], OPERATORS[name](part)
    )


@BOTH
@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"scaling": "trace"}, ValueError, "`scaling` should be one of 'rows', 'frobenius'"),
        ({"reg_eps": -1e-6}, ValueError, "`reg_eps` should not be negative"),
        ({"norm_eps": float("inf")}, ValueError, "`norm_eps` should be finite"),
        (
            {"preference": [1.0, -1.0]},
            ValueError,
            "`preference` should hold positive numbers and zeros",
        ),
        (
            {"preference": [0.0, 0.0]},
            ValueError,
            "`preference` should hold positive numbers and zeros",
        ),
        ({"preference": "both"}, TypeError, "`preference` should be a sequence of numbers"),
        ({"reg_eps": "small"}, TypeError, "`reg_eps` should be a number"),
    ],
)
def test_bad_parameters(
    name: str, params: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get(name.lower(), **params)


@BOTH
def test_a_preference_of_other_tasks(name: str) -> None:
    with pytest.raises(ValueError, match=r"each of 3 tasks\. Found 2 numbers"):
        mtl_ops.merge(torch.eye(3), CLASSES[name](preference=[1.0, 2.0]))


@BOTH
def test_nothing_is_given(name: str) -> None:
    with pytest.raises(TypeError, match=r"should be given `preference`\. Found `orders`"):
        mtl_ops.merge(torch.eye(2), name.lower(), orders=torch.eye(2))

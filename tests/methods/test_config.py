"""ConFIG; the solver is tested in ``tests/solvers/test_equal_angle.py``."""

from __future__ import annotations

import pytest
import torch
from matrices import cases
from torch import Tensor

import mtl_ops
from mtl_ops.methods import ConFIG

from .peers import TAME

aggregation = pytest.importorskip("torchjd.aggregation")

#: Where the directions are dependent, TorchJD's pseudo-inverse of the unit gradients and that of
#: their cosines cut off at different places, but at nothing in between.
FAMILIES = (*TAME, "sparse", "duplicates", "rank_deficient_shared", "graded", "dominated", "tiny")


@pytest.mark.parametrize("with_preference", [False, True])
def test_agrees_with_torchjd(with_preference: bool) -> None:
    count = 0
    for case in cases(FAMILIES, sizes=(1, 2, 3, 5, 8), seeds=4):
        if not (case.jacobian.norm(dim=1) > 0).all():
            continue
        p = torch.linspace(0.5, 2.0, case.tasks, dtype=torch.float64) if with_preference else None
        wanted = aggregation.ConFIG(pref_vector=p)(case.jacobian)
        found = mtl_ops.merge(case.jacobian, ConFIG(preference=p))
        assert (found - wanted).norm() <= 1e-8 * wanted.norm(), str(case)
        count += 1
    assert count >= 200


def test_a_zero_gradient_is_no_direction() -> None:
    rows = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1.0, 1, 0]], dtype=torch.float64)
    found = mtl_ops.merge(rows, "config")
    assert torch.allclose(found, mtl_ops.merge(rows[[0, 2]], "config"), rtol=1e-14)
    assert torch.allclose(found, aggregation.ConFIG()(rows), rtol=1e-10)


def test_no_direction_no_update() -> None:
    # TorchJD answers with the direction of the rounding errors.
    g = torch.Generator().manual_seed(0)
    for tasks in (2, 3, 8):
        rows = torch.randn(tasks, 20, generator=g, dtype=torch.float64)
        rows = rows / rows.norm(dim=1, keepdim=True)
        opposite = torch.cat([rows, -rows])
        assert mtl_ops.merge(opposite, "config").norm() <= 1e-12
        assert not mtl_ops.merge(torch.zeros(tasks, 4), "config").any()


def test_nan_is_not_hidden() -> None:
    rows = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]])
    assert mtl_ops.merge(rows, "config").isnan().all()
    assert torch.equal(
        mtl_ops.merge(rows, "config", nonfinite="skip_task"), torch.tensor([1.0, 0.0])
    )


def tensor_or_list(kind: str) -> list[float] | Tensor:
    return [1.0, 2.0] if kind == "l" else torch.tensor([1.0, 2.0])


def test_preference_as_a_list_or_a_tensor() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.3, 1.0]])
    results = [mtl_ops.merge(rows, ConFIG(preference=tensor_or_list(kind))) for kind in "lt"]
    assert torch.equal(*results)
    assert repr(ConFIG(preference=[1, 2])) == "ConFIG(preference=[1.0, 2.0], rank_tol=None)"


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"preference": []}, ValueError, "`preference` should hold one finite number for each"),
        ({"preference": [1.0, float("inf")]}, ValueError, "`preference` should hold one finite"),
        ({"preference": [[1.0]]}, ValueError, "`preference` should hold one finite"),
        ({"preference": "ab"}, TypeError, "`preference` should be a sequence of numbers. Found"),
        ({"rank_tol": -1.0}, ValueError, "`rank_tol` should not be negative. Found"),
    ],
)
def test_bad_parameters(params: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mtl_ops.methods.get("config", **params)


def test_a_preference_of_other_tasks() -> None:
    with pytest.raises(ValueError, match="`preference` should hold one number for each of 2 tasks"):
        mtl_ops.merge(torch.eye(2), ConFIG(preference=[1.0, 2.0, 3.0]))

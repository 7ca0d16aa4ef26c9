"""Names that methods have elsewhere, and what they are said to be the same as."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from matrices import cases
from torch import Tensor

import mtl_ops
from mtl_ops.methods import ConFIG, DualProj, PCGrad
from mtl_ops.methods._other_names import OTHER_NAMES

DOCUMENT = Path(__file__).parents[2] / "docs" / "names.md"


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_say_what_to_use(name: str) -> None:
    assert name not in mtl_ops.methods.available()
    for written in (name, name.upper(), name.replace("_", "-")):
        with pytest.raises(
            ValueError, match=f"another than '{written}': .*Found `method = "
        ) as error:
            mtl_ops.methods.get(written)
        assert len(str(error.value)) < 400
    named = re.findall(r"`([a-z_]+)`", OTHER_NAMES[name])
    assert any(one in mtl_ops.methods.available() for one in named)


def test_what_is_searched_for_is_there() -> None:
    wanted = {"lr_annealing", "grad_norm_weighting", "ntk", "dcgd", "sam_gs", "autoscale"}
    assert wanted | {"self_adaptive"} <= OTHER_NAMES.keys()
    text = DOCUMENT.read_text().lower()
    for name in ("lrannealing", "lr_annealing", "dcgd", "sam-gs", "autoscale", "self-adaptive"):
        assert name in text


def test_a_user_can_take_such_a_name() -> None:
    mtl_ops.methods.register("dcgd")(type("Mine", (mtl_ops.methods.Mean,), {"name": "mine"}))
    try:
        assert type(mtl_ops.methods.get("dcgd")).__name__ == "Mine"
    finally:
        mtl_ops.methods.unregister("dcgd")


# ---- dual cone gradient descent of two losses, as its paper has it ---------------------------------


def center(g: Tensor, h: Tensor) -> Tensor:
    """The projection of the sum on the middle of the dual cone."""
    middle = g / g.norm() + h / h.norm()
    return (middle @ (g + h)) / (middle @ middle) * middle


def projected(g: Tensor, h: Tensor) -> Tensor:
    """The sum, or its projection on the subspace that it conflicts with."""
    total = g + h
    if total @ g < 0:
        return total - (total @ g) / (g @ g) * g
    if total @ h < 0:
        return total - (total @ h) / (h @ h) * h
    return total


def average(g: Tensor, h: Tensor) -> Tensor:
    """The mean of what is left of each on the other's normal plane."""
    return ((1 - (g @ h) / (g @ g)) * g + (1 - (g @ h) / (h @ h)) * h) / 2


PAIRS = ["random", "shared_direction", "conflict", "hard_conflict", "graded", "dominated"]


def test_dcgd_is_config_dual_projection_and_half_of_pcgrad() -> None:
    conflicts = 0
    for case in cases(PAIRS, sizes=(2,), seeds=8):
        g, h = case.jacobian
        size = 1e-8 * float(g.norm() + h.norm())
        merged = mtl_ops.merge(case.jacobian, ConFIG())
        torch.testing.assert_close(merged, center(g, h), rtol=1e-8, atol=size)
        merged = mtl_ops.merge(case.jacobian, DualProj(preference=[1.0, 1.0]))
        torch.testing.assert_close(merged, projected(g, h), rtol=1e-8, atol=size)
        if g @ h < 0:
            conflicts += 1
            merged = 0.5 * mtl_ops.merge(case.jacobian, PCGrad())
            torch.testing.assert_close(merged, average(g, h), rtol=1e-8, atol=size)
    assert conflicts > 5

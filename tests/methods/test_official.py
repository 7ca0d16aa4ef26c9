"""Methods against what their authors' code, or a peer's, answered on the same problems.

``official.json`` holds, by method, small random problems and those answers, with the repository, its commit and what
was called there. Nothing of that code is here: what is compared are numbers. Where theirs is right, both agree to
rounding; wherever it is not, the problems leave that out, and the documentation says how they differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mtl_ops
from mtl_ops.methods import (
    EPO,
    FERERO,
    LDCMTL,
    MGDA,
    PMGDA,
    DiBSMTL,
    GO4Align,
    MetaBalance,
    NormBalancing,
    OnlinePCGrad,
    ReLoBRaLo,
    SoftAdapt,
)

ANSWERS = Path(__file__).with_name("official.json")


@cache
def answers() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ANSWERS.read_text())
    return found


def problems(name: str, at_least: int) -> Iterator[dict[str, Any]]:
    """The problems of a method."""
    found = answers()[name]["cases"]
    assert len(found) >= at_least
    yield from found


def numbers(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gram(case: dict[str, Any]) -> Tensor:
    rows = numbers(case["rows"])
    return rows @ rows.T


def close(found: Tensor, wanted: Any, rtol: float = 1e-8) -> None:
    """To a share of the largest entry."""
    expected = numbers(wanted)
    off, size = float((found - expected).abs().max()), float(expected.abs().max())
    assert off <= rtol * size, f"off by {off / size:.1e}\n{found}\n{expected}"


def test_all_say_where_they_are_from() -> None:
    for name, entry in answers().items():
        assert sorted(entry) == ["called", "cases", "commit", "repository"], name
        assert len(entry["commit"]) == 40, name


def test_epo() -> None:
    for case in problems("epo", 40):
        method = EPO(preference=case["preference"], relax=case.get("relax", False))
        close(method.weights(gram(case), numbers(case["losses"])), case["weights"])


def test_pmgda() -> None:
    for case in problems("pmgda", 20):
        method = PMGDA(preference=case["preference"])
        close(method.weights(gram(case), numbers(case["losses"])), case["weights"])


def test_ferero() -> None:
    for case in problems("ferero", 20):
        method = FERERO(preference=case["preference"])
        close(method.weights(gram(case), numbers(case["losses"])), case["weights"])


def test_dibs_mtl() -> None:
    for case in problems("dibs_mtl", 24):
        close(DiBSMTL(steps=case["steps"], step=0.2).weights(gram(case)), case["weights"])


def test_go4align() -> None:
    for case in problems("go4align", 6):
        method = GO4Align(groups=case["groups"], step_size=case["step_size"])
        for step in case["steps"]:
            close(method.weights(None, numbers(step["losses"])), step["weights"])


def test_metabalance() -> None:
    for case in problems("metabalance", 3):
        method = MetaBalance(relax=case["relax"], beta=case["beta"])
        for step in case["steps"]:
            blocks = [numbers(rows) for rows in step["rows"]]
            weights = method.weights(torch.stack([rows @ rows.T for rows in blocks]))
            for w, rows, merged in zip(weights, blocks, step["merged"], strict=True):
                close(w @ rows, merged)


def test_ldc_mtl() -> None:
    for case in problems("ldc_mtl", 8):
        method = LDCMTL(lam=case["lam"], normalise=case["normalise"])
        losses, learned = numbers(case["losses"]), numbers(case["learned"])
        given = {"initial_losses": numbers(case["initial_losses"])}
        method.weights(None, losses, **given)
        close(method._derivatives(learned, losses)[0], case["weights"])
        close(method.slope(learned, losses), case["slope"])


def test_softadapt() -> None:
    for case in problems("softadapt", 18):
        method = SoftAdapt(beta=case["beta"], variant=case["variant"], order=case["order"])
        for losses in case["losses"]:
            found = method.weights(None, numbers(losses))
        # theirs adds 1e-8 to the sum, and averages in float32 if loss-weighted
        close(found, case["weights"], 2e-7 if case["variant"] == "loss_weighted" else 1e-8)


def test_relobralo() -> None:
    for case in problems("relobralo", 3):
        method = ReLoBRaLo(alpha=case["alpha"], temperature=case["temperature"])
        method.weights(None, numbers(case["first"]))
        for step in case["steps"]:
            close(method.weights(None, numbers(step["losses"]), step["keep"]), step["weights"])


def test_norm_balancing() -> None:
    for case in problems("norm_balancing", 3):
        method = NormBalancing(momentum=case["momentum"])
        for step in case["steps"]:
            close(method.weights(gram(step)), step["weights"])


def test_online_pcgrad() -> None:
    for case in problems("online_pcgrad", 12):
        close(
            mtl_ops.merge(numbers(case["rows"]), OnlinePCGrad(order="cyclic")),
            case["merged"],
        )


def test_mgda_with_least_weights() -> None:
    for case in problems("mgda", 12):
        close(MGDA(min_weights=case["min_weights"]).weights(gram(case)), case["weights"])


@pytest.mark.parametrize(
    ("kind", "method"),
    [("center", "config"), ("proj", "dualproj"), ("avg", "pcgrad")],
)
def test_dual_cone_gradient_descent(kind: str, method: str) -> None:
    """Of two tasks it is ConFIG; DualProj; and, where the sum is in conflict with a task, half of PCGrad."""
    params: dict[str, Any] = {"preference": [1.0, 1.0], "reg_eps": 0.0} if kind == "proj" else {}
    for case in problems("dcgd", 12):
        rows = numbers(case["rows"])
        found = mtl_ops.merge(rows, mtl_ops.methods.get(method, **params))
        if kind == "avg":
            found = found / 2 if (rows @ rows.sum(dim=0) < 0).any() else rows.sum(dim=0)
        close(found, case[kind])

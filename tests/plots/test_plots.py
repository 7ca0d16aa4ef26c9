"""``mtl-ops plot``: descents, the Pareto front, the cone, and what the command writes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtl_ops
from mtl_ops.cli import make_app
from mtl_ops.data import TOY_STARTS, toy_losses
from mtl_ops.plots.cone import ANGLES, conflicts, merged_at_angles, pair
from mtl_ops.plots.toy import descend, distance_to_front, pareto_front, toy_gradients

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("typer")

from typer.testing import CliRunner

from mtl_ops.demo.plots import STYLE
from mtl_ops.plots import pictures

STEPS = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One thread, and fewer pixels and arrows."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 40)
    monkeypatch.setattr(pictures, "ARROWS", 5)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(
        make_app(), ["plot", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"}
    )


def said(result: Any) -> str:
    return " ".join(result.output.replace("│", " ").split())


def test_all_pictures_are_written_and_differ(tmp_path: Path) -> None:
    result = invoke("--method", "sum,mgda", "--steps", STEPS, "--out", tmp_path / "new" / "folder")
    assert result.exit_code == 0, result.output
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(drawn) == {"toy.png", "field.png", "cone.png"}
    assert len(set(drawn.values())) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())


def test_the_options_decide_what_is_drawn(tmp_path: Path) -> None:
    drawn = {}
    for method in ("sum", "mgda"):
        result = invoke("--only", "cone", "--method", method, "--out", tmp_path / method)
        assert result.exit_code == 0, result.output
        assert [path.name for path in (tmp_path / method).iterdir()] == ["cone.png"]
        drawn[method] = (tmp_path / method / "cone.png").read_bytes()
    assert drawn["sum"] != drawn["mgda"]


def test_the_table_has_a_row_for_each_method_and_start(tmp_path: Path) -> None:
    result = invoke("--only", "toy", "-m", "sum", "-m", "famo", "--steps", 1, "--out", tmp_path)
    rows = [line.split() for line in result.stdout.splitlines() if "(" in line]
    assert [row[0] for row in rows] == ["sum"] * 5 + ["famo"] * 5
    # Adam's first step is as long as its learning rate, in each coordinate.
    assert "(-8.5, 7.5) (-8.48, 7.48)" in said(result)
    first, second = toy_losses(torch.tensor(descend(["sum"], 1, 2e-2)["sum"][0, -1])).tolist()
    assert rows[0][-2:] == [f"{first:.3f}", f"{second:.3f}"]


def test_all_leaves_out_what_needs_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtl_ops.methods, "available", lambda: ["auto_lambda", "upgrad"])
    result = invoke("--only", "cone", "--method", "all", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "Left out: auto_lambda" in said(result)
    assert "Left out: upgrad" not in said(result)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--method", "magda"), "did you mean 'mgda'?"),
        (("--method", "auto_lambda"), "missing a required argument"),
        (("--only", "tow"), "did you mean 'toy'?"),
        (("--lr", "0"), "0.0 is not a positive number."),
        (("--first-scale", "nan"), "nan is not a positive number."),
        (("--steps", "0"), "'--steps'"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, str], reason: str) -> None:
    result = invoke(*arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert reason in said(result)
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("--out", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot be made: File exists." in said(result)


def test_the_front_is_pareto_stationary() -> None:
    """Gradients on it are opposite, or one of them is zero; and nowhere else nearby."""
    front = torch.tensor(pareto_front(29))
    shares = ((front[:, 0] + 7) / 14).unsqueeze(1)
    for first_scale in (0.1, 1.0):
        _, gradients = toy_gradients(front, first_scale)
        mixed = shares * gradients[:, 0] / first_scale + (1 - shares) * gradients[:, 1]
        torch.testing.assert_close(mixed, torch.zeros_like(mixed), rtol=0, atol=1e-12)
    _, gradients = toy_gradients(front + torch.tensor([0.0, 0.1]))
    assert merged_norms(gradients).min() > 1e-4


def merged_norms(gradients: torch.Tensor) -> torch.Tensor:
    return torch.stack([mtl_ops.merge(each, "mgda").norm() for each in gradients])


def test_distance_to_the_front() -> None:
    middle = pareto_front(3)[1]
    points = np.array([middle, middle + np.array([0.0, 2.0]), [10.0, pareto_front(3)[2, 1]]])
    np.testing.assert_allclose(distance_to_front(points), [0.0, 2.0, 3.0], atol=1e-3)


@pytest.mark.parametrize("method", ["upgrad", "famo", "uncertainty", "gradvac"])
def test_a_descent_is_what_the_optimizer_does(method: str) -> None:
    """Solved together, with losses, with parameters that are learned, and with a memory."""
    path = descend(["sum", method], 12, 0.1)[method][3]
    theta = torch.nn.Parameter(torch.tensor(TOY_STARTS[3], dtype=torch.float64))
    optimizer = mtl_ops.MultiTaskOptimizer(torch.optim.Adam([theta], lr=0.1), method)
    for _ in range(12):
        optimizer.zero_grad()
        optimizer.backward(toy_losses(theta) + torch.tensor([2.1, 21.0]))
        optimizer.step()
    np.testing.assert_allclose(path[-1], theta.detach().numpy(), rtol=1e-6)
    assert len(path) == 13


def test_the_descents_end_where_the_papers_say() -> None:
    """Figure 1 of Nash-MTL, in fewer and longer steps of Adam.

    The sum follows the larger gradient, and from one start stays in the valley. CAGrad ends at the
    same minimum of the mean loss, but leaves the valley. MGDA reaches the front, in places at the
    end of the first task, whose gradient is small; Nash-MTL reaches it in between, from everywhere.
    """
    ends = {
        name: path[:, -1]
        for name, path in descend(["sum", "cagrad", "mgda", "nash_mtl"], 8000, 1e-2).items()
    }
    far = {name: distance_to_front(points) for name, points in ends.items()}
    stuck = [False, False, True, False, False]
    assert (far["sum"] > 5).tolist() == stuck
    assert (far["sum"] < 0.1).tolist() == [not one for one in stuck]
    np.testing.assert_allclose(ends["sum"][[0, 1, 3, 4]], [[-5.73, -8.41]] * 4, atol=0.1)
    np.testing.assert_allclose(ends["cagrad"][[0, 1, 3, 4]], [[-5.73, -8.41]] * 4, atol=0.1)
    assert far["cagrad"][2] < far["sum"][2] - 3
    assert (far["mgda"] < 0.1).all()
    assert (ends["mgda"][:, 0] > 6).any()
    assert (far["nash_mtl"] < 0.1).all()
    assert (np.abs(ends["nash_mtl"][:, 0]) < 6).all()


def test_who_leaves_the_cone() -> None:
    """At 160 degrees the sum follows the longer gradient; these three by construction do not."""
    gradients = torch.stack([pair(degrees) for degrees in ANGLES])
    assert conflicts(gradients, merged_at_angles("sum")).tolist() == [False, False, True]
    for method in ("mgda", "upgrad", "pcgrad"):
        assert not conflicts(gradients, merged_at_angles(method)).any()


def test_the_boundary_of_the_cone_is_inside() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    merged = torch.tensor([[1.0, 0.0], [1.0, -1e-12], [1.0, -1e-3], [0.0, 0.0]])
    found = conflicts(gradients.expand(4, 2, 2), merged)
    assert found.tolist() == [False, False, True, False]

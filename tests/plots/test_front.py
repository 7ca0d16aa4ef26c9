"""The front that preferences reach, and its hypervolume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_ops.cli import make_app

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from typer.testing import CliRunner

from mtl_ops.demo.plots import STYLE
from mtl_ops.plots.front import PREFERRING, RATIOS, front_losses, hypervolume, share_of_front, sweep


def test_hypervolume() -> None:
    corner = np.array([4.0, 4.0])
    assert hypervolume(np.array([[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]]), corner) == 3 + 2 + 1
    assert hypervolume(np.array([[1.0, 1.0], [2.0, 3.0]]), corner) == 9  # the second adds nothing
    assert hypervolume(np.array([[5.0, 1.0], [1.0, 4.0]]), corner) == 0  # none is better in both
    assert share_of_front(front_losses(0.1), 0.1) == 1


def test_preferences_reach_the_front_in_order() -> None:
    reached = sweep(["epo", "stch"], 250, 0.2, 1.0)
    front = front_losses(1.0)
    for name, points in reached.items():
        away = np.abs(points[:, None] - front).max(axis=-1).min(axis=1)
        assert (away < 0.2).all(), name
        assert (np.diff(points[:, 0]) < 0.05).all(), (
            name
        )  # the more the first counts, the lower it is
        assert share_of_front(points, 1.0) > 0.6
    worst = front.max(axis=0)
    ratio = reached["epo"][4] / worst
    assert ratio[0] == pytest.approx(ratio[1], rel=0.05)  # equal preferences, equal losses
    assert len(RATIOS) == len(reached["epo"])


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STYLE, "savefig.dpi", 40)
    call = ["plot", "--only", "front", "--steps", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(make_app(), call, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in result.output for name in PREFERRING)
    refused = CliRunner().invoke(make_app(), [*call, "--method", "sum"], env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    assert "methods with a preference: epo" in " ".join(refused.output.replace("│", " ").split())

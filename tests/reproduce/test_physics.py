"""The physics study: equations and their solutions, points, schedule, and jobs that are done two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtl_ops.demo.writer import FolderError, locked
from mtl_ops.reproduce import collect, physics, solving
from mtl_ops.reproduce.equations import Beltrami, Burgers, Equation, Kovasznay, latin_hypercube
from mtl_ops.reproduce.fields import FieldNet
from mtl_ops.reproduce.solving import MOMENTUM, Course, share_of_rate, solve
from mtl_ops.reproduce.tables import made_with
from mtl_ops.reproduce.workers import WorkerError

EQUATIONS = pytest.mark.parametrize("equation", [Burgers(), Kovasznay(), Beltrami()])
KINDS = ("residual", "boundary", "initial")


def differentiated(
    field: Any, points: Tensor, twice: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The field, first and second derivatives by automatic differentiation, component by component."""
    points = points.clone().requires_grad_()
    value = field(points)
    first, second = [], []
    for component in value.unbind(dim=1):
        (slopes,) = torch.autograd.grad(component.sum(), points, create_graph=True)
        first.append(slopes.T)
        bends = [
            torch.autograd.grad(slopes[:, k].sum(), points, retain_graph=True)[0][:, k]
            for k in twice
        ]
        second.append(torch.stack(bends))
    return value, torch.stack(first, dim=-1), torch.stack(second, dim=-1)


@EQUATIONS
def test_solutions_solve_and_derivatives_are_those_of_autograd(equation: Equation) -> None:
    generator = torch.Generator().manual_seed(0)
    points = equation.draw("residual", 40, generator).double()
    found = equation.residuals(*differentiated(equation.solution, points, equation.twice))
    assert len(found) == {1: 1, 3: 3, 4: 4}[equation.components]
    assert max(each.abs().max().item() for each in found) < 1e-11
    moved = [each.detach() for each in differentiated(equation.solution, points, equation.twice)]
    moved[1] = moved[1] + 1e-3
    assert min(each.abs().max().item() for each in equation.residuals(*moved)) > 1e-4
    net = FieldNet(len(equation.box), equation.components, width=7, hidden=3).double()
    for ours, wanted in zip(
        net.derivatives(points, equation.twice),
        differentiated(net, points, equation.twice),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


@EQUATIONS
def test_points_are_where_the_solution_is_given(equation: Equation) -> None:
    generator = torch.Generator().manual_seed(1)
    lower, upper = (torch.tensor(ends) for ends in zip(*equation.box, strict=True))
    inside = equation.draw("residual", 30, generator)
    slices = ((inside - lower) / (upper - lower) * 30).floor().sort(dim=0).values
    assert torch.equal(slices, torch.arange(30.0)[:, None].expand_as(slices))
    edges = equation.draw("boundary", 60, generator)
    ends = (edges == lower) | (edges == upper)
    free = max(equation.space - 1, 1)
    assert (ends[:, : equation.space].sum(dim=1) == free).all()
    for k in range(equation.space):
        assert {*edges[ends[:, k], k].tolist()} == {lower[k].item(), upper[k].item()}
    kinds = ["boundary"]
    if equation.space < len(equation.box):
        kinds.append("initial")
        assert (equation.draw("initial", 9, generator)[:, equation.space] == 0).all()
    for kind in kinds:
        points = equation.draw(kind, 50, generator)
        known = equation.known(kind, points)
        torch.testing.assert_close(known, equation.solution(points), rtol=1e-5, atol=1e-6)


def test_a_hypercube_is_drawn_by_its_generator() -> None:
    drawn = [latin_hypercube(8, 3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_loss_of_both_kinds_is_that_of_all_their_points() -> None:
    equation, counts = Burgers(), dict(zip(KINDS, (5, 12, 4), strict=True))
    net = FieldNet(2, 1, width=5, hidden=2)
    both = equation.loss("boundary+initial", net, counts, torch.Generator().manual_seed(0))
    again = torch.Generator().manual_seed(0)
    apart = [equation.loss(kind, net, counts, again) for kind in ("boundary", "initial")]
    torch.testing.assert_close(both, (12 * apart[0] + 4 * apart[1]) / 16)


def test_the_rate_falls_on_half_a_cosine_after_a_warm_up() -> None:
    course = Course("sum", KINDS, {}, 20_000, (1e-3, 1e-4))
    found = [share_of_rate(course, k) for k in (0, 50, 100, 10_050, 20_000, 30_000)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1, 0.1])
    assert share_of_rate(Course("sum", KINDS, {}, 10, (1e-4, 1e-4)), 0) == 1.0


def test_what_is_cheap_goes_on_and_what_is_dear_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts losses: M-ConFIG takes one a step, ConFIG three."""
    counts = dict(zip(KINDS, (4, 4, 4), strict=True))
    asked: list[str] = []
    plain = Kovasznay.loss

    def counted(self: Equation, kind: str, *rest: Any) -> Tensor:
        asked.append(kind)
        return plain(self, kind, *rest)

    monkeypatch.setattr(Kovasznay, "loss", counted)
    monkeypatch.setattr("time.process_time", lambda: float(len(asked)))
    kinds = ("residual", "boundary")

    def steps(method: str, limit: float | None) -> tuple[int, float]:
        asked.clear()
        course = Course(method, kinds, counts, 8, (1e-3, 1e-4), looks=8)
        found = solve(Kovasznay(), course, 0, limit)
        return found.timely_steps, found.seconds

    assert steps("sum", None) == (8, 16.0)
    assert steps("config", 10.0) == (5, 16.0)
    assert steps(MOMENTUM, 12.0) == (12, 8.0)
    assert asked[:3] == ["residual", "boundary", "residual"]
    assert steps(MOMENTUM, 1e9)[0] == 32  # no further than this


def small() -> dict[str, Any]:
    settings = physics.PhysicsStudy().settings("quick")
    settings.pop("beltrami")
    for case in settings.values():
        case |= {"points": [6, 4, 4][: len(case["points"])], "steps": 3, "seeds": [0, 1]}
    return settings


def test_physics_in_two_processes(tmp_path: Path) -> None:
    """The results are those of one process, times apart, and in the order of the jobs."""
    settings = {"kovasznay": small()["kovasznay"]}
    found = {}
    for processes in (1, 2):
        said: list[str] = []
        path = tmp_path / f"{processes}.json"
        results = collect(_Bare(settings), "quick", path, said.append, processes=processes)
        assert [each["job"] for each in results["records"]] == _Bare(settings).jobs(settings)
        assert [line.split(":")[0] for line in said][-1] == "4 of 4"
        found[processes] = [
            {key: each["result"][key] for key in ("mse", "relative", "best")}
            for each in results["records"]
        ]
        assert ("2 processes at a time, each of" in made_with(results)) == (processes == 2)
    assert found[1] == found[2]


class _Bare(physics.PhysicsStudy):
    """Two methods; a process that is spawned has the settings from its parent."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def settings(self, budget: str) -> dict[str, Any]:
        return self.given

    def jobs(self, settings: Any) -> list[dict[str, Any]]:
        return [job for job in super().jobs(settings) if job["method"] in ("sum", "config")]


def test_a_process_that_the_system_ends_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("terminated abruptly"))
        return future

    monkeypatch.setattr("mtl_ops.reproduce.workers.ProcessPoolExecutor.submit", ended)
    study = _Bare({"kovasznay": small()["kovasznay"]})
    with pytest.raises(WorkerError, match="for want of memory; what is done is kept"):
        collect(study, "quick", tmp_path / "r.json", lambda text: None, processes=2)


def test_a_file_that_another_process_goes_on_with_is_refused(tmp_path: Path) -> None:
    """Before anything is read or done; and not any more when that one is over."""
    path, study = tmp_path / "r.json", _Bare({})
    with (
        locked(tmp_path / ".r.json.lock", "it"),
        pytest.raises(FolderError, match=r"File .*r\.json is in use by another process; wait"),
    ):
        collect(study, "quick", path, lambda text: None)
    assert not path.exists()
    assert collect(study, "quick", path, lambda text: None)["records"] == []


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(physics, "METHODS", ("sum", "config", "relobralo"))
    study, settings = physics.PhysicsStudy(), small()
    monkeypatch.setattr(study, "settings", lambda budget: settings)
    monkeypatch.setattr(Burgers, "test_points", lambda self: torch.rand(20, 2).double())
    solving._tested.cache_clear()
    results = collect(study, "quick", tmp_path / "r.json", lambda text: None)
    for count in range(0, len(results["records"]) + 1, 5):
        part = {**results, "records": results["records"][:count]}
        assert study.page(part).startswith(f"# {study.title}")
    page = study.page(results)
    assert page.index("What does not reproduce") < page.index("| method |")
    for text in page.split("| method |")[1:]:
        assert text.splitlines()[2].startswith("| sum |")
    for record in results["records"]:
        job, result = record["job"], record["result"]
        if job["case"] == physics.EXAMPLE:
            result["mse"] = physics.PRINTED.get(job["method"], (1.0,))[0] * (1 + job["seed"])
        else:
            better = job["method"] == "config" or (job["method"], job["seed"]) == ("relobralo", 0)
            result["relative"] = 0.5 if better else 1.0
            result["timely"] = float("nan")
    page = study.page(results)
    assert (
        "printed one: sum 1.50 times, config 1.50 times, momentum(config) 1.50 times. The order"
        in page
    )
    assert "M-ConFIG, is the printed one" in page
    assert "| config | 1e-4 | 0.00665 | 0.00997 (0.00665 to 0.0133) | 0.00638 |" in page
    assert "with each of the seeds 0, 1: equal steps: config; equal time: none.\n" in page
    assert "| config | 50.0 (50.0 to 50.0) | – (2 of 2 diverged) |" in page
    solving._tested.cache_clear()

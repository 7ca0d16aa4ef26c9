"""The benchmarks at tiny sizes: every contender runs, and those that do the same get the same."""

from __future__ import annotations

import functools
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mtl_ops

pytest.importorskip("benchmarks", reason="the benchmarks are in the source tree only")

from benchmarks import (
    charts,
    cheap,
    drawings,
    machine,
    memory,
    merge,
    multiples,
    pages,
    published,
    results,
    rivals,
    run,
    solve,
    step,
    step_models,
    steps,
    table,
    timing,
    toy,
)
from benchmarks.plain_solvers import SOLVERS
from benchmarks.problems import SHAPES, Problem, random_problem, resnet18

TASKS = 5
RANDOM = frozenset({"graddrop", "random"})
#: Iterative solvers stop early, and TorchJD regularises relative to the trace of the Gram matrix.
TOLERANCES = {"cagrad": 1e-4, "dualproj": 2e-3, "mgda": 3e-2, "upgrad": 2e-3}
ORDERS = torch.tensor(
    [[2, 1, 0, 4, 3], [0, 4, 1, 3, 2], [4, 3, 2, 1, 0], [1, 0, 2, 4, 3], [0, 1, 2, 3, 4]]
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Nothing is large enough for more, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return random_problem([(30, 7), (11,), (), (4, 5, 3)], TASKS)


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients]).double()


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def given(method: str) -> dict[str, Tensor]:
    """The same orders for all that project one task after another."""
    if method == "pcgrad":
        return {"orders": ORDERS}
    if method == "gradvac":
        others = [[j for j in order if j != i] for i, order in enumerate(ORDERS.tolist())]
        return {"orders": torch.tensor(others)}
    return {}


# ---- merging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", rivals.available(sorted(rivals.NAIVE_METHODS - RANDOM)))
def test_ways_to_merge_agree(problem: Problem, method: str) -> None:
    expected = flat(rivals.naive(problem, method, ORDERS)())
    tolerance = TOLERANCES.get(method, 1e-5)
    found = {"ours": rivals.ours(problem, method, **given(method))}
    if method in rivals.LIBMTL_METHODS:
        found["LibMTL's way"] = rivals.libmtl(problem, method, ORDERS)
    if not given(method):
        for summed in (False, True):
            call = rivals.torchjd(problem, method, sum_grams=summed)
            if call is not None:
                found[f"TorchJD {summed}"] = call
    for name, call in found.items():
        assert distance(flat(call()), expected) < tolerance, name


@pytest.mark.parametrize("method", rivals.available(["pcgrad", "gradvac"]))
def test_random_orders_do_not_matter_to_two_tasks(method: str) -> None:
    problem = random_problem([(30, 7), (11,)], 2)
    expected = flat(rivals.naive(problem, method)())
    for summed in (False, True):
        call = rivals.torchjd(problem, method, sum_grams=summed)
        assert call is not None
        assert distance(flat(call()), expected) < 1e-5
    assert distance(flat(rivals.ours(problem, method)()), expected) < 1e-5


@pytest.mark.parametrize("method", rivals.available(["graddrop"]))
def test_graddrop_keeps_one_sign_in_each_coordinate(problem: Problem, method: str) -> None:
    matrix = torch.stack([flat(row) for row in problem.rows])
    sums = matrix.clamp(min=0).sum(dim=0), matrix.clamp(max=0).sum(dim=0)
    for call in (rivals.naive(problem, method), rivals.ours(problem, method)):
        found = flat(call())
        off = torch.minimum((found - sums[0]).abs(), (found - sums[1]).abs())
        assert off.max() < 1e-5


def test_merging_leaves_the_gradients_alone(problem: Problem) -> None:
    before = [gradient.clone() for gradient in problem.flat]
    for name in ("ours", *merge.RIVALS):
        for method in rivals.available(["upgrad", "pcgrad", "sum"]):
            call = merge.contender(problem, method, name)
            if call is not None:
                call()
    assert all(torch.equal(a, b) for a, b in zip(before, problem.flat, strict=True))


def test_contenders_leave_out_what_a_rival_lacks(problem: Problem) -> None:
    found = merge.contenders(problem, ["sum"], list(merge.RIVALS))
    assert ("sum", "ours") in found
    assert ("sum", "LibMTL's way") not in found
    assert ("sum", merge.TORCHJD_SUMMED) not in found


def test_shapes_are_those_of_the_models() -> None:
    assert sum(torch.Size(shape).numel() for shape in resnet18()) == 11_689_512
    assert len(SHAPES["ResNet-18"]) == 62
    assert sum(torch.Size(shape).numel() for shape in SHAPES["transformer"]) > 10_000_000


def test_floor_is_two_reads_and_a_write() -> None:
    problem = random_problem([(10, 10), (5,)], 3)
    assert problem.floor_bytes == 4 * 105 * (2 * 3 + 1)


# ---- solving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [2, 6])
def test_solvers_agree_with_torchjd(tasks: int) -> None:
    calls = solve.contenders(tasks)
    matrices = solve.jacobians(tasks)
    compared = 0
    for method, rival in calls:
        if rival == "ours" or method in {*RANDOM, "gradvac", "pcgrad" if tasks > 2 else ""}:
            continue
        compared += 1
        for matrix in matrices:  # each call takes the next matrix
            found, theirs = (calls[method, name]().double().flatten() for name in ("ours", rival))
            update = theirs if theirs.shape == matrix.shape[1:] else matrix.T @ theirs
            # Norms over a decade: relative to the trace, TorchJD's regularisation is no longer small.
            tolerance = 15 * TOLERANCES.get(method, 1e-6)
            assert distance(matrix.T @ found, update) < tolerance, (method, matrix)
    assert compared >= 2


@pytest.mark.parametrize("tasks", [2, 6])
def test_solvers_agree_with_the_plain_ones(tasks: int) -> None:
    calls = solve.contenders(tasks)
    methods = [name for name, who in calls if who == "ours" and name in SOLVERS]
    assert methods
    for method in set(methods) - RANDOM:
        for matrix in solve.jacobians(tasks):
            expected = matrix.T @ torch.as_tensor(SOLVERS[method]((matrix @ matrix.T).numpy()))
            found = matrix.T @ calls[method, "ours"]()[0]
            tolerance = {"cagrad": 1e-4, "mgda": 0.1}.get(method, 1e-5)
            assert distance(found, expected) < tolerance, (method, matrix)


# ---- steps --------------------------------------------------------------------------------------


def parameters(call: Callable[[], Any], steps: int = 3) -> Tensor:
    for _ in range(steps):
        model = call()
    found = model.parameters() if isinstance(model, torch.nn.Module) else [model]
    return torch.cat([param.detach().flatten() for param in found]).double()


def test_steps_of_the_mlp_agree() -> None:
    calls = step.contenders(quick=True)
    assert distance(parameters(calls["ours sum"]), parameters(calls[step.PLAIN])) < 1e-6
    if f"ours {step.METHOD}" in calls:
        expected = parameters(calls[f"ours {step.METHOD}"])
        for mode in step.MODES:
            assert distance(parameters(calls[mode]), expected) < 1e-5
    assert parameters(calls[step.BARE]).isfinite().all()


@pytest.mark.parametrize("case", ["MLP 8×1024, B = 16", "recommender, B = 1024"])
def test_ways_to_take_a_step_agree(case: str) -> None:
    exact = [name for name in steps.OURS if name not in steps.APPROXIMATE]
    found = {}
    for name in (*exact, steps.JAC):
        subject = steps.contender(case, name, 3, quick=True)()
        assert isinstance(subject, step_models.Subject)
        grads = [param.grad for param in subject.shared if param.grad is not None]
        found[name] = torch.cat([gradient.flatten() for gradient in grads])
    for merged in found.values():
        assert distance(merged, found[exact[0]]) < 1e-3


@pytest.mark.parametrize("case", step_models.MODELS)
def test_every_model_takes_a_step_by_factors(case: str) -> None:
    for name in (steps.PLAIN, steps.BARE, steps.AUTO, steps.FACTORED):
        subject = steps.contender(case, name, 2, quick=True)()
        assert isinstance(subject, step_models.Subject)
        assert all(param.grad is not None for param in subject.shared)


def test_steps_by_sample_agree_with_plain_ones() -> None:
    case = next(iter(step_models.SAMPLES))
    one, two = (steps.sample_contender(case, name, 4)() for name in (steps.PLAIN, steps.BY_SAMPLE))
    assert isinstance(one, torch.nn.Module)
    assert isinstance(two, torch.nn.Module)
    for mine, theirs in zip(two.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_steps_of_the_toy_problem_agree() -> None:
    calls = toy.contenders()
    start = torch.tensor(mtl_ops.data.TOY_STARTS[0], dtype=torch.float64)
    assert distance(parameters(calls["ours sum"]), parameters(calls[toy.SUMMED])) < 1e-6
    for method in rivals.available(tasks=2):
        moved = parameters(calls[f"ours {method}"])
        assert 1e-4 < (moved - start).abs().max() < 1e-2, method


# ---- the timer ----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless a contender moves it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def advancing(clock: list[float], seconds: float, log: list[str], name: str) -> Callable[[], None]:
    def call() -> None:
        clock[0] += seconds
        log.append(name)

    return call


def test_rounds_are_interleaved_and_start_in_turn(clock: list[float]) -> None:
    log: list[str] = []
    calls = {name: advancing(clock, 0.5, log, name) for name in "abc"}
    found = timing.interleave(calls, rounds=4, seconds=1000.0)
    assert "".join(log).endswith("abc" + "bca" + "cab" + "abc")
    assert all(sorted(result.by_round) == [0, 1, 2, 3] for result in found.values())
    assert found["a"].seconds == timing.Quartiles(0.5, 0.5, 0.5)


def test_fast_contenders_are_called_several_times_and_slow_ones_sit_out(clock: list[float]) -> None:
    log: list[str] = []
    calls = {
        "fast": advancing(clock, 1e-5, log, "fast"),
        "slow": advancing(clock, 10.0, log, "slow"),
    }
    found = timing.interleave(calls, rounds=15, seconds=60.0)
    assert len(found["fast"].by_round) == 15
    assert len(found["slow"].by_round) == timing.FEWEST
    assert found["fast"].seconds.median == pytest.approx(1e-5)
    assert found["slow"].seconds.median == pytest.approx(10.0)
    assert log.count("fast") >= 15 * timing.READING / 1e-5


def test_a_drift_of_the_machine_cancels_in_the_ratio() -> None:
    drift = [1.0, 5.0, 2.0, 9.0]
    ours = timing.Timing(dict(enumerate(drift)))
    theirs = timing.Timing({number: 3 * seconds for number, seconds in enumerate(drift)})
    assert timing.ratio(theirs, ours) == timing.Quartiles(3.0, 3.0, 3.0)
    some = timing.Timing({1: 10.0, 3: 18.0})
    assert timing.ratio(some, ours) == timing.Quartiles(2.0, 2.0, 2.0)
    assert timing.ratio(ours, some) == timing.Quartiles(0.5, 0.5, 0.5)


def test_the_floor_is_taken_in_the_same_rounds() -> None:
    ours = timing.Timing({0: 4.0, 1: 40.0, 2: 8.0})
    probe = timing.Timing({0: 1.0, 1: 10.0, 2: 2.0})
    assert results.paired_floor(ours, probe, factor=3.0) == pytest.approx(8.0 * 0.75)


# ---- memory, machine ----------------------------------------------------------------------------


def test_peak_sees_what_was_freed_again() -> None:
    def call() -> None:
        torch.ones(16 << 20).add_(1.0)

    assert 64e6 < memory.peak(call) < 80e6


def test_memory_of_a_merge_is_measured_in_a_process_of_its_own() -> None:
    small = memory.SIZES["small"]
    merged = 4 * sum(torch.Size(shape).numel() for shape in small)
    assert merged <= memory.in_child("merge", "ours", "upgrad", "cpu", "small") < merged + 16e6


def test_rows_of_memory_count_the_gradients_that_were_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "in_child", lambda *arguments: 2e6)
    rows = memory.measure(quick=True)
    assert {row.rival for row in rows} == {*merge.RIVALS, step.BARE, step.PLAIN, *step.MODES}
    freed = [row for row in rows if "freed blocks" in row.case]
    assert {row.method for row in freed} == {step.METHOD, *step.OPTIONS}
    gradients = 4 * 8 * sum(torch.Size(shape).numel() for shape in memory.SIZES["small"]) / 1e6
    merges = [row for row in rows if row.case.startswith("merge")]
    assert merges
    for row in merges:
        assert row.ours.median == pytest.approx(gradients + 2)
        assert row.floor == pytest.approx(gradients * 9 / 8)
    steps = [row for row in rows if row.case.startswith("training")]
    assert {row.ours.median for row in steps} == {2.0}


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="'TorchJD' does not have method 'median'"):
        memory.in_child("merge", merge.TORCHJD, "median", "cpu", "small")


facts = functools.cache(functools.partial(machine.facts, quick=True))


def test_facts_name_neither_host_nor_path() -> None:
    assert facts()["versions"]["torch"] == torch.__version__
    assert facts()["threads"] == torch.get_num_threads()
    assert facts()["bandwidth"]["read"] > 0
    assert "/" not in json.dumps(facts())


# ---- results and tables -------------------------------------------------------------------------


def row(**changes: Any) -> results.Row:
    def single(value: float) -> timing.Quartiles:
        return timing.Quartiles(value, value, value)

    fields: dict[str, Any] = {
        "case": "large, T = 8",
        "method": "upgrad",
        "ours": single(20.0),
        "unit": "ms",
        "rival": "TorchJD",
        "theirs": single(140.0),
        "ratio": single(7.0),
        "floor": 16.0,
        "goal": results.Goal("speed-up", 4.0),
    }
    return results.Row(**{**fields, **changes})


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (results.Goal("speed-up", 7.0), True),
        (results.Goal("speed-up", 7.1), False),
        (results.Goal("overhead", 0.15), True),
        (results.Goal("overhead", 0.14), False),
        (results.Goal("value", 20.0), True),
        (results.Goal("value", 19.0), False),
        (results.Goal("floor", 0.8), True),
        (results.Goal("floor", 0.81), False),
        (None, None),
    ],
)
def test_goals(goal: results.Goal | None, met: bool | None) -> None:
    assert row(goal=goal).met is met


def entry(*rows: results.Row) -> dict[str, Any]:
    return {"machine": facts(), "seconds": 1.0, "rows": list(rows)}


def test_results_are_read_as_written_and_those_of_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    first = [row(), row(rival=None, theirs=None, ratio=None, goal=None)]
    results.save(path, {"merge": entry(*first)})
    results.save(path, {"step": entry(row(method="mgda"))})
    loaded = results.load(path)
    assert loaded["merge"]["rows"] == first
    assert loaded["step"]["rows"][0].method == "mgda"
    assert json.loads(path.read_text())["merge"]["rows"][0]["met"] is True


def test_markdown_has_a_column_for_each_rival() -> None:
    rows = [row(), row(rival="naive loop", goal=None), row(case="small", method="mgda")]
    lines = table.markdown(entry(*rows)).splitlines()
    assert lines[0] == "| case | method | ours | TorchJD | naive loop | ours / floor |"
    assert lines[2] == "| large, T = 8 | `upgrad` | 20.0 ms | 140 ms (7×) | 140 ms (7×) | 1.25× |"
    assert torch.__version__ in lines[-1]


def test_goals_are_on_a_page_of_their_own() -> None:
    found = {
        "merge": entry(row(), row(rival="naive loop", goal=None)),
        "toy": entry(row(goal=None)),
    }
    text = pages.goals(found)
    assert "| large, T = 8 | `upgrad` | 20.0 ms | TorchJD | ≥ 4×: 7× ✓ |" in text
    assert "naive loop" not in text
    assert "## toy" not in text


def test_pages_are_filled_between_their_markers() -> None:
    found = {"merge": entry(row(), row(case="small, T = 2", method="mgda"))}
    text = "above\n<!-- bench:merge small -->\nold\n<!-- /bench -->\nbelow\n"
    filled = pages.fill(text, found)
    assert filled.startswith("above\n<!-- bench:merge small -->\n")
    assert filled.endswith("<!-- /bench -->\nbelow\n")
    assert "`mgda`" in filled
    assert "`upgrad`" not in filled
    assert "old" not in filled
    assert pages.fill(filled, found) == filled
    assert "--only step`" in pages.fill("<!-- bench:step -->\n<!-- /bench -->", found)
    with pytest.raises(ValueError, match="Found 'speed'"):
        pages.fill("<!-- bench:speed -->\n<!-- /bench -->", found)
    with pytest.raises(ValueError, match="Found 'huge'"):
        pages.fill("<!-- bench:merge huge -->\n<!-- /bench -->", found)


def test_documentation_and_pictures_hold_the_measured_figures() -> None:
    written = pages.written()
    assert {"README.md", "toy.md", "time.svg", "memory.svg", "cpu.md"} <= {p.name for p in written}
    old = [path.name for path, text in written.items() if path.read_text("utf-8") != text]
    assert old == [], "make pages writes them again"


def test_published_times_stand_beside_ours() -> None:
    lines = pages.SPECIAL["published"](results.load(pages.RESULTS)).splitlines()
    assert lines[0] == "| method | FAMO's figure 1 | TorchJD | mtl_ops |"
    (nash,) = [line for line in lines if "nash_mtl" in line]
    assert nash.split("|")[2].strip() == "30.2×"  # 995 s through 33 s
    assert len(lines) == 2 + len(published.FAMO) - 1


def figures() -> dict[str, Any]:
    """Made up: as if every benchmark of steps had been run."""
    time = f"{steps.PICTURED}, T = {steps.PERIOD}"
    made = [
        row(case=case, method=method, rival=steps.PLAIN, ratio=timing.Quartiles(0.5, 0.5, 0.5))
        for case in (time, f"peak memory of {time}")
        for method in (steps.FACTORED, steps.JAC, steps.CONCATENATED)
    ]
    return {"steps": entry(*made, row(case="another model", method=steps.BARE))}


def test_pictures_are_of_one_model_and_its_bars_in_proportion() -> None:
    for drawn in drawings.draw(figures()).values():
        picture = ElementTree.fromstring(drawn)
        boxes = list(picture.iter("{http://www.w3.org/2000/svg}rect"))
        bars = [
            float(box.get("width", "nan")) for box in boxes if box.get("x") == str(charts.LABEL)
        ]
        assert len(bars) == 4
        assert bars[1:] == pytest.approx([2 * bars[0]] * 3, abs=0.2)
        assert "LibMTL" in drawn
        assert "T backwards" not in drawn


def test_everything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    names = ["merge", "step", "toy", "solve", "cheap"]
    run.main(["--quick", "--json", str(path), "--only", *names])
    loaded = results.load(path)
    assert sorted(loaded) == sorted(names)
    assert all(loaded[name]["rows"] for name in names)
    printed = capsys.readouterr().out
    assert all(run.BENCHMARKS[name] in printed for name in names)


def test_cases_are_saved_one_by_one_and_measured_again_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"one": 1.0, "two": 2.0, "another": 3.0}

    def parts(device: str, quick: bool) -> list[tuple[str, Callable[[], list[results.Row]]]]:
        def measured(case: str) -> list[results.Row]:
            if case not in found:
                raise KeyboardInterrupt
            return [row(case=case, ours=timing.Quartiles(*[found[case]] * 3)) for _ in range(2)]

        return [(case, functools.partial(measured, case)) for case in ("one", "two", "another")]

    def saved() -> list[tuple[str, float]]:
        rows = results.load(path)["steps"]["rows"]
        assert rows[::2] == rows[1::2]
        return [(each.case, each.ours.median) for each in rows[::2]]

    path = tmp_path / "results.json"
    arguments = ["--json", str(path), "--only", "steps"]
    known = results.load(results.FOLDER / "cpu.json")["toy"]["machine"]
    monkeypatch.setattr(machine, "facts", lambda *_: known)  # measured in seconds
    monkeypatch.setattr(steps, "parts", parts)
    run.main(arguments)
    assert saved() == [("one", 1.0), ("two", 2.0), ("another", 3.0)]
    found["two"] = 4.0
    run.main([*arguments, "--case", "tw"])
    assert saved() == [("one", 1.0), ("two", 4.0), ("another", 3.0)]
    del found["another"]
    with pytest.raises(KeyboardInterrupt):
        run.main(arguments)
    assert saved() == [("one", 1.0), ("two", 4.0)]
    with pytest.raises(SystemExit, match="Found 'three'"):
        run.main([*arguments, "--case", "three"])
    with pytest.raises(SystemExit):
        run.main(["--json", str(path), "--case", "one"])
    assert "goes with --only steps" in capsys.readouterr().err


def test_multiples_of_a_plain_step() -> None:
    def of(case: str, method: str, times: float, rival: str = steps.PLAIN) -> results.Row:
        there = timing.Quartiles(*[1 / times] * 3)
        return row(case=case, method=method, rival=rival, ratio=there)

    sample = multiples.SAMPLE + "one, B = 4"
    entries = {
        "steps": entry(
            of("one, T = 2", "batched=True", 2.0),
            of("one, T = 2", steps.BARE, 4.0),
            of("two, T = 2", steps.BARE, 5.0),
            of("two, T = 2", steps.AUTO, 9.0, "best single: another"),
            of(sample, steps.BY_SAMPLE, 2.5),
            of(sample, steps.BY_SAMPLE, 0.25, steps.GRAMIAN),
            of(multiples.MEMORY + "one, T = 2", steps.BARE, 8.0),
        )
    }
    head, _, one, two = multiples.times(entries).splitlines()
    assert head == "| model | plain summed backward, ms | `batched=True` | T bare backwards |"
    assert one == "| one, T = 2 | 140 | 2× | 4× |"
    assert two == "| two, T = 2 | 140 |  | 5× |"
    assert multiples.samples(entries).splitlines()[-1] == "| one, B = 4 | 140 | 2.5× | 4× |"
    assert multiples.memories(entries).splitlines()[-1] == "| one, T = 2 | 140 | 8× |"
    assert multiples.times({}) == multiples.MISSING


def test_errors_of_cheap_steps_are_those_of_the_merged_gradients() -> None:
    (subject, _) = cheap.subjects(quick=True)
    found = cheap.errors(subject, steps=3, methods=["sum", "mgda"])
    assert all(max(error) < 1e-6 for way in cheap.WAYS for error in found["sum"][way])
    assert max(found["mgda"]["weights_every=2"][0]) < 1e-6
    assert min(found["mgda"]["weights_every=2"][1]) > 1e-3
    # the first step on the features by hand
    features, losses = subject.losses(subject.model, 0, slice(None))
    rows = [
        torch.autograd.grad(loss, [features, *subject.shared(subject.model)], retain_graph=True)
        for loss in losses
    ]
    whole = torch.stack([flat(list(row[1:])) for row in rows])
    part = torch.stack([flat([row[0]]) for row in rows])
    method = mtl_ops.methods.get("mgda")
    grams = []
    for k in range(subject.batch):  # 4 processes, a sample each
        parts = subject.losses(subject.model, 0, slice(k, k + 1))[1]
        shared = subject.shared(subject.model)
        each = [flat(list(torch.autograd.grad(p, shared, retain_graph=True))) for p in parts]
        grams.append(torch.stack(each) @ torch.stack(each).T)
    assert len(grams) == cheap.PROCESSES
    exact = method.weights(whole @ whole.T) @ whole
    for way, gram in ((cheap.FEATURES, part @ part.T), (cheap.MEAN_GRAM, sum(grams) / len(grams))):
        other = method.weights(gram) @ whole
        cosine = torch.nn.functional.cosine_similarity(exact, other, dim=0)
        angle, percent = found["mgda"][way][0]
        assert angle == pytest.approx(torch.rad2deg(torch.arccos(cosine)).item(), rel=1e-4)
        assert percent == pytest.approx(100.0 * distance(other, exact), rel=1e-4)


def test_wrong_options_name_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "speed"], ["--device", "tpu"]):
        with pytest.raises(SystemExit):
            run.main(arguments)
    printed = capsys.readouterr().err
    assert "merge" in printed
    assert "should be cpu or cuda, found 'tpu'" in printed


# ---- on a GPU -----------------------------------------------------------------------------------


def test_goals_are_those_of_the_device() -> None:
    def at(tasks: int, device: str) -> float | None:
        goal = solve._goal("upgrad", tasks, "ours", device)
        return None if goal is None else goal.bound

    assert [at(tasks, "cuda") for tasks in (2, 8, 32, 64)] == [None, 15.0, 150.0, 1000.0]
    assert [at(tasks, "cpu") for tasks in (2, 8, 32, 64)] == [None, 20.0, None, 3000.0]
    problem = random_problem([(11_000_000,)], 8)
    for device, bound in (("cpu", 4.0), ("cuda:0", 10.0)):
        goal = merge._goal("upgrad", merge.TORCHJD, problem, device)
        assert goal is not None
        assert goal.bound == bound


def test_what_only_a_gpu_shows_is_refused_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--only", "gpu"])
    assert "gpu is for --device cuda" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_run_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "cuda.json"
    names = ["kernels", "merge", "solve", "gpu"]
    run.main(["--quick", "--device", "cuda", "--json", str(path), "--only", *names])
    stored = results.load(path)
    assert set(stored) == set(names)
    waits = [row for row in stored["gpu"]["rows"] if row.unit == "waits"]
    assert waits
    assert all(row.ours.median == 0 for row in waits)

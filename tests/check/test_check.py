"""``mtl-ops check`` finds what differs, names it, and says so with its exit status."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import mtl_ops
from mtl_ops import cli, ops, reference
from mtl_ops.check import bandwidth, command, losses, passes, rows, solvers, steps
from mtl_ops.check.finding import Comparison, Finding, Verdict, judge
from mtl_ops.check.table import make_printer

NO_GPU = not torch.cuda.is_available() or mtl_ops.build_info().backends["cuda"] != "native"
#: Every operator that is called by its kernel; the other names there are none.
OPERATORS = {name for name in ops.__all__ if hasattr(reference, name)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few cases of every kind."""
    monkeypatch.setattr(rows, "TASKS", (3,))
    monkeypatch.setattr(rows, "MANY_TASKS", 9)
    monkeypatch.setattr(solvers, "TASKS", (3,))
    monkeypatch.setattr(solvers, "MANY_TASKS", 4)
    monkeypatch.setattr(steps, "WEIGHING", ("mgda", "pcgrad"))
    monkeypatch.setattr(bandwidth, "ELEMENTS", {"cpu": 1 << 12})


def lines(text: str) -> dict[str, str]:
    """The table's rows by what they check."""
    return {line[:30].strip(): line for line in text.splitlines() if line[32:35] == "cpu"}


@pytest.mark.usefixtures("small")
def test_a_right_build_passes_and_every_operator_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    assert command.main([]) == 0
    text = capsys.readouterr().out
    found = lines(text)
    assert str(mtl_ops.build_info()) in text
    assert found.keys() >= OPERATORS
    assert all("ok" in found[name] for name in OPERATORS)
    assert "ok" in found["the gradient of a step"]
    assert found["a step waits for nobody"].endswith("not on a CPU")
    assert found["a step replays in a CUDA graph"].endswith("not on a CPU")
    assert "% of the" in found["bandwidth of gram"]
    assert "% of the" in found["bandwidth of merge_"]
    assert "CUDA is not checked: torch finds no GPU." in text
    assert f"All is well: {len(OPERATORS) + 1} checks, no difference." in text
    assert torch.get_num_threads() == threads


def verdict_of(name: str) -> Verdict:
    """Of one operator."""
    if name in passes.PASSES:
        return judge(name, "cpu", lambda: passes.PASSES[name]("cpu")).verdict
    compare = losses.compare_losses if name in losses.WEIGHINGS else solvers.compare
    return judge(name, "cpu", lambda: compare(name, "cpu")).verdict


def off_by_a_little(right: Any) -> Any:
    """The operator, with one number of its result off."""

    def wrong(*args: Any) -> torch.Tensor:
        result: torch.Tensor = right(*args)
        flat = result.view(-1)
        flat[flat.abs().nan_to_num(nan=0.0).argmax()] *= 1.001
        return result

    return wrong


def off_in_place(right: Any, place: int) -> Any:
    """The operator, with one number off by 1 in what it changes."""

    def wrong(*args: Any) -> torch.Tensor:
        result: torch.Tensor = right(*args)
        changed = args[place][0] if place == 0 else args[place]
        changed.view(-1)[-1] += 1
        return result

    return wrong


@pytest.mark.usefixtures("small")
def test_a_difference_of_one_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = torch.ops.mtl_ops
    for name in sorted(OPERATORS):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, name, off_by_a_little(getattr(kernels, name)))
            assert verdict_of(name) is Verdict.WRONG, name


@pytest.mark.usefixtures("small")
def test_what_is_changed_in_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One element of what is merged into, and what a solver remembers."""
    remembers = {"solve_modo": 2, "solve_sdmgrad": 2, "solve_pcd": 2, "solve_gradvac": 3}
    remembers |= {"solve_adaptive_sharing": 2, "task_scales": 4, "gram_and_scales": 7}
    remembers |= {"weigh_famo": 2, "weigh_dwa": 4, "weigh_softadapt": 1, "weigh_relobralo": 3}
    remembers |= {"weigh_ldc_mtl": 2}
    for name, place in {"merge_": 0, **dict.fromkeys(passes.COORDINATES, 0), **remembers}.items():
        with monkeypatch.context() as patch:
            wrong = off_in_place(getattr(torch.ops.mtl_ops, name), place)
            patch.setattr(torch.ops.mtl_ops, name, wrong)
            assert verdict_of(name) is Verdict.WRONG, name


def test_a_difference_is_named_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: solvers.SOLVERS[name] for name in ("solve_sum", "solve_mgda")}
    monkeypatch.setattr(solvers, "SOLVERS", two)
    monkeypatch.setattr(reference, "solve_mgda", off_by_a_little(reference.solve_mgda))
    monkeypatch.setattr(command, "CHECKS", (solvers.check_solvers,))
    assert command.main(["--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert "DIFFERS" in lines(text)["solve_mgda"]
    assert "DIFFERS" not in lines(text)["solve_sum"]
    assert "DIFFERENCES in 1 of 2 checks: solve_mgda.\n" in text
    assert "Please report this" in text
    assert "`python -m torch.utils.collect_env`" in text


@pytest.mark.usefixtures("small")
def test_a_wrong_step_and_a_wrong_long_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(mtl_ops.MultiTaskOptimizer):
        def backward(self, *args: Any, **kwargs: Any) -> None:
            super().backward(*args, **kwargs)
            for group in self.param_groups:
                group["params"][0].grad *= 1.001

    monkeypatch.setattr(steps, "MultiTaskOptimizer", Wrong)
    gradient, *_ = steps.check_steps("cpu")
    assert gradient.verdict is Verdict.WRONG
    assert "2 of 2 cases" in gradient.detail
    right = ops.gram
    monkeypatch.setattr(ops, "gram", lambda *args: right(*args) + 1)
    gram, merge = bandwidth.check_bandwidth("cpu")
    assert (gram.verdict, merge.verdict) == (Verdict.WRONG, Verdict.MEASURED)
    assert "a wrong result for T = 4" in gram.detail


def test_judging() -> None:
    def broken() -> Any:
        yield Comparison("first", 0.5)
        raise RuntimeError("no kernel image\nis available")

    def verdict(*offs: float) -> Finding:
        return judge("x", "cpu", lambda: (Comparison(f"case {off}", off) for off in offs))

    assert verdict(0.0, 1.0).verdict is Verdict.RIGHT
    assert verdict(0.0, 1.1, 3.0).detail == (
        "2 of 3 cases, worst case 3.0: 3 times what rounding allows"
    )
    assert verdict(0.0, math.nan).verdict is Verdict.WRONG
    assert verdict().verdict is Verdict.WRONG
    raised = judge("x", "cpu", broken)
    assert raised.verdict is Verdict.WRONG
    assert raised.detail == "after 1 cases RuntimeError: no kernel image is available"


def test_shares_of_what_is_allowed() -> None:
    one, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan])
    assert passes.share(one, one + 0.5, torch.ones(2)) == 0.5
    assert passes.share(nan, nan, torch.ones(2)) == 0.0
    assert passes.share(nan, one, torch.ones(2)) == math.inf
    assert passes.share(one, nan, torch.ones(2)) == math.inf
    assert passes.share(one, one, torch.zeros(2)) == 0.0
    assert passes.share(one[:0], one[:0], one[:0]) == 0.0


@pytest.mark.parametrize(
    ("there", "message"), [(False, "torch finds no GPU"), (True, "this build has no CUDA kernels")]
)
def test_cuda_where_there_is_none(
    there: bool,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if there and mtl_ops.build_info().backends["cuda"] == "native":
        pytest.skip("this build has CUDA kernels")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert command.main(["--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Parameter `--device` should be cpu here: ")
    assert message in error


def test_it_needs_no_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    monkeypatch.setattr("mtl_ops.check.table.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["mtl-ops", "check", "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert "--device {cpu,cuda}" in capsys.readouterr().out
    make_printer(coloured=True)(Finding("x", "cpu", Verdict.RIGHT, "1 case"))
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["mtl-ops", "train"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert "`mtl-ops check` works without" in str(left.value.code)


def test_it_is_a_command_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    asked: list[list[str]] = []

    def check(arguments: list[str]) -> int:
        asked.append(arguments)
        return 1

    monkeypatch.setattr(cli, "check", check)
    assert "check" in CliRunner().invoke(cli.make_app(), ["--help"]).output
    assert CliRunner().invoke(cli.make_app(), ["check", "--device", "cpu"]).exit_code == 1
    assert asked == [["--device", "cpu"]]


def test_methods_of_the_steps_exist_and_need_nothing() -> None:
    assert set(steps.WEIGHING) < set(steps.METHODS)
    for name in steps.METHODS:
        mtl_ops.methods.get(name)


@pytest.mark.cuda
@pytest.mark.skipif(NO_GPU, reason="needs a CUDA device and a build with CUDA kernels")
def test_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda"]) == 0
    text = capsys.readouterr().out
    assert "a step replays in a CUDA graph  cuda   ok" in text

"""An experiment made of invented figures, and a small real one that has run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mtl_ops.cli import make_app
from mtl_ops.demo.config import PLAIN, SINGLE, Config
from mtl_ops.demo.timing import Timing
from mtl_ops.examples import digits as digits_example

from .child import fewer_digits

#: What ``typer.testing`` returns has no public name.
Result = Any


class Invented(NamedTuple):
    """All that the table and the pictures are made from."""

    config: Config
    methods: list[str]
    histories: dict[Any, Any]
    timing: Timing


@pytest.fixture
def invented() -> Invented:
    """Two tasks, two seeds, three epochs; ``first`` measures cosines, ``second`` does not."""
    config = Config(tasks=("digit", "reconstruction"), seeds=(0, 1), epochs=3)
    methods = ["first", "second"]
    histories = {}
    for place, run in enumerate(config.runs(methods)):
        epochs = range(config.epochs)
        # Every run has values of its own: 0.01 apart.
        base = 0.5 + 0.01 * place
        history: dict[str, list[Any]] = {
            "loss": [[(base + i) / (1 + epoch) for i in range(len(run.tasks))] for epoch in epochs],
            "metric": [[base + 0.1 * epoch for _ in run.tasks] for epoch in epochs],
            "conflicts": [],
            "steps": [10 for _ in epochs],
        }
        if run.method == "first":
            history["conflicts"] = [2, 4, 6]
            history["cosine"] = [[0.5], [0.1 * run.seed], [-0.25]]
        histories[run] = history
    milliseconds = {"first": 6.0, "second": 3.0, PLAIN: 2.0}
    milliseconds |= {f"{SINGLE}-digit": 1.5, f"{SINGLE}-reconstruction": 2.5}
    timing = {
        label: {"median": median, "low": 0.9 * median, "high": 1.2 * median}
        for label, median in milliseconds.items()
    }
    return Invented(config, methods, histories, timing)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads gain little on such a small model, and lose a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def quick() -> Iterator[None]:
    """Fewer digits, rounds of timing, and pixels: neither skill nor time nor beauty is tested."""
    for package in ("matplotlib", "rich", "sklearn", "tensorboard", "typer"):
        pytest.importorskip(package)
    from mtl_ops.demo import experiment, plots

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "ROUNDS", 2)
        patch.setattr(digits_example, "digits", fewer_digits)
        patch.setitem(plots.STYLE, "savefig.dpi", 60)
        yield


@pytest.fixture(scope="session")
def invoke() -> Callable[..., Result]:
    """Run the command line in this process, in a wide window without colours."""
    from typer.testing import CliRunner

    app = make_app()

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}
        )

    return run


#: Two tasks, one method and two seeds, for two epochs.
SMALL = ("--tasks", "digit,reconstruction", "--method", "sum", "--seed", "0,1", "--epochs", 2)


@pytest.fixture(scope="package")
def finished(
    tmp_path_factory: pytest.TempPathFactory, invoke: Callable[..., Result]
) -> tuple[Path, Result]:
    """The folder of :data:`SMALL` after it has run, and what the command said."""
    folder = tmp_path_factory.mktemp("finished") / "small"
    result = invoke("train", *SMALL, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result

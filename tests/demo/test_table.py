"""What the table shows, wide and narrow."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from mtl_ops.demo.config import Config
from mtl_ops.demo.summary import Figure, Row, summarize

from .conftest import Invented

pytest.importorskip("rich")

from rich.console import Console

from mtl_ops.demo.table import render

CONFIG = Config(tasks=("digit", "reconstruction"), seeds=(0, 1))


def _row(method: str, digit: float, mse: float, **rest: float) -> Row:
    metrics = {"digit": Figure(digit, 0.0123), "reconstruction": Figure(mse, 0.0042)}
    return Row(method, metrics, Figure(-1.25, 0.5), 12.34, 1.5, rest.get("conflicts"))


ROWS = [
    replace(_row("single", 0.9, 0.1), delta_m=None),
    _row("plain", 0.95, 0.3),
    _row("mgda", 0.8, 0.1, conflicts=0.246),
]


def _text(rows: list[Row], width: int = 160, **console: object) -> str:
    file = io.StringIO()
    target = Console(file=file, width=width, **console)  # type: ignore[arg-type]
    target.print(render(CONFIG, rows, {"krum": "It asks for n_byzantine. It has two more"}, target))
    return file.getvalue()


def _cells(text: str, method: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.split()[:1] == [method])
    return [cell for cell in line.strip().split("  ") if cell]


def _heads(text: str) -> int:
    return sum(line.split()[:1] == ["method"] for line in text.splitlines())


def test_units_and_digits() -> None:
    text = _text(ROWS)
    cells = [cell.strip() for cell in _cells(text, "mgda")]
    assert cells == ["mgda", "80.0 ± 1.2", "0.100 ± 0.004", "-1.2 ± 0.5", "12.3", "1.50", "25"]


def test_shares_are_in_percent_and_the_direction_is_the_metrics() -> None:
    """Of a character error the lowest is best."""
    config = Config.of(
        {"example": "image-text-speech", "tasks": ("text", "speech"), "seeds": (0, 1)}
    )
    rows = [
        replace(
            row, metrics={"text": row.metrics["digit"], "speech": row.metrics["reconstruction"]}
        )
        for row in ROWS
    ]
    file = io.StringIO()
    console = Console(file=file, width=160, force_terminal=True, color_system="standard")
    console.print(render(config, rows, {}, console))
    text = file.getvalue()
    assert "% right" in text
    assert "char. error, %" in text
    stressed = [piece.split("\x1b[0m")[0].strip() for piece in text.split("\x1b[1;32m")[1:]]
    assert stressed.count("10.0 ± 0.4") == 2
    assert "30.0 ± 0.4" in text
    assert "30.0 ± 0.4" not in stressed


def test_what_was_not_measured_stays_empty() -> None:
    text = _text(ROWS)
    assert [cell.strip() for cell in _cells(text, "plain")][-1] == "1.50"
    single = [cell.strip() for cell in _cells(text, "single")]
    assert single == ["single", "90.0 ± 1.2", "0.100 ± 0.004", "12.3", "1.50"]


def test_one_seed_has_no_spread() -> None:
    rows = [
        replace(row, metrics={t: Figure(f.mean, float("nan")) for t, f in row.metrics.items()})
        for row in ROWS
    ]
    assert [cell.strip() for cell in _cells(_text(rows), "plain")][1:3] == ["95.0", "0.300"]


def test_a_diverged_run_is_shown_as_such() -> None:
    metrics = {"digit": Figure(float("nan"), float("nan")), "reconstruction": Figure(1.0, 0.0)}
    rows = [*ROWS, replace(_row("bad", 0, 0), metrics=metrics)]
    assert "nan" in _cells(_text(rows), "bad")[1]


def test_the_best_of_a_column_is_stressed_by_the_direction_of_its_metric() -> None:
    text = _text(ROWS, force_terminal=True, color_system="standard", no_color=False)
    stressed = [piece.split("\x1b[0m")[0].strip() for piece in text.split("\x1b[1;32m")[1:]]
    # The highest accuracy, both lowest errors, both highest gains.
    assert sorted(stressed) == sorted(
        ["95.0 ± 1.2", "0.100 ± 0.004", "0.100 ± 0.004", "-1.2 ± 0.5", "-1.2 ± 0.5"]
    )


def test_no_colour_without_a_terminal() -> None:
    assert "\x1b" not in _text(ROWS)


def test_a_narrow_console_gets_two_tables_and_loses_nothing(invented: Invented) -> None:
    rows = summarize(*invented)
    wide, narrow = _text(rows, 160), _text(rows, 60)
    assert [_heads(text) for text in (wide, narrow)] == [1, 2]
    assert max(map(len, narrow.splitlines())) <= 60
    table = wide[: wide.index("Test part")]
    for word in table.replace("─", "").split():
        assert word in narrow, word


def test_notes_name_what_was_left_out_and_the_seeds() -> None:
    text = _text(ROWS)
    assert "Left out: krum (It asks for n_byzantine)." in text
    assert "over 2 seeds" in text


def test_as_many_tables_as_the_columns_need() -> None:
    """Fourteen labels and three figures over all of them do not fit into a hundred columns."""
    config = Config.of({"example": "yeast", "seeds": (0, 1)})
    metrics = {task: Figure(0.5, 0.01) for task in config.tasks}
    overall = {"micro F1": Figure(0.625, 0.01), "Hamming loss": Figure(0.2, 0.01)}
    rows = [
        Row("single", metrics, None, 1.0, 1.0),
        Row("plain", metrics, Figure(1.0, 0.1), 1.0, 1.0, None, overall),
    ]
    file = io.StringIO()
    console = Console(file=file, width=100)
    console.print(render(config, rows, {}, console))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    heads = [line for line in text.splitlines() if line.split()[:1] == ["method"]]
    assert len(heads) > 2
    assert text.split().count("class-7") == 1
    for name in (*config.tasks, "micro F1", "Hamming loss", "Δm"):
        assert name in text
    assert "62.5 ± 1.0" in text

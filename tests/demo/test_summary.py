"""The figures of the table, on numbers that can be checked by hand."""

from __future__ import annotations

import math
import statistics

import pytest

from mtl_ops.demo.summary import Figure, delta_m, summarize

from .conftest import Invented


def test_delta_m_is_the_mean_relative_gain() -> None:
    gain = delta_m({"up": 0.9, "down": 2.0}, {"up": 0.6, "down": 4.0}, {"up": True, "down": False})
    assert gain == pytest.approx(100 * (0.5 + 0.5) / 2)


def test_delta_m_of_a_loss_is_negative() -> None:
    assert delta_m({"up": 0.5}, {"up": 1.0}, {"up": True}) == pytest.approx(-50.0)
    assert delta_m({"down": 3.0}, {"down": 1.0}, {"down": False}) == pytest.approx(-200.0)


def test_delta_m_of_the_single_tasks_themselves_is_zero() -> None:
    single = {"up": 0.7, "down": 0.2}
    assert delta_m(single, single, {"up": True, "down": False}) == 0.0


def test_delta_m_against_zero_is_not_a_number() -> None:
    assert math.isnan(delta_m({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, {"a": True, "b": True}))


def test_figure() -> None:
    figure = Figure.of([1.0, 2.0, 6.0])
    assert (figure.mean, figure.spread) == (3.0, pytest.approx(math.sqrt(7.0)))
    assert math.isnan(Figure.of([1.0]).spread)


def test_rows(invented: Invented) -> None:
    rows = summarize(*invented)
    assert [row.method for row in rows] == ["single", "plain", "first", "second"]
    single, plain, first, second = rows
    # The last epoch adds 0.2 to a run's base, which is 0.5 + 0.01 times its place in the list.
    assert single.metrics["digit"].mean == pytest.approx(0.7 + 0.01 * (0 + 5) / 2)
    assert single.metrics["reconstruction"].mean == pytest.approx(0.7 + 0.01 * (1 + 6) / 2)
    assert first.metrics["digit"].mean == pytest.approx(0.7 + 0.01 * (3 + 8) / 2)
    assert first.metrics["digit"].spread == pytest.approx(statistics.stdev([0.73, 0.78]))
    assert [row.milliseconds for row in rows] == [4.0, 2.0, 6.0, 3.0]
    assert [row.overhead for row in rows] == [2.0, 1.0, 3.0, 1.5]
    assert [row.conflicts for row in rows] == [None, None, pytest.approx(24 / 60), None]
    assert single.delta_m is None
    assert plain.delta_m is not None
    assert second.delta_m is not None


def test_delta_m_is_taken_seed_by_seed(invented: Invented) -> None:
    plain = summarize(*invented)[1]
    gains = [
        50 * ((0.7 + p - (0.7 + d)) / (0.7 + d) - (0.7 + p - (0.7 + r)) / (0.7 + r))
        for p, d, r in ((0.02, 0.0, 0.01), (0.07, 0.05, 0.06))
    ]
    assert plain.delta_m is not None
    assert plain.delta_m.mean == pytest.approx(statistics.fmean(gains))
    assert plain.delta_m.spread == pytest.approx(statistics.stdev(gains))

"""The pictures: that they are drawn, and that they show the figures they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_ops.demo.config import PLAIN, SINGLE, Config, Run
from mtl_ops.demo.files import RunFolder

from .conftest import Invented

pytest.importorskip("matplotlib")

import matplotlib.image
from matplotlib.figure import Figure

from mtl_ops.demo.plots import draw, draw_cosines, draw_curves, draw_overhead


def _labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_pictures_are_written_and_show_something(invented: Invented, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert draw(folder, *invented) == ["losses", "cosines", "overhead"]
    for name in ("losses", "cosines", "overhead"):
        pixels = matplotlib.image.imread(folder.picture(name))
        height, width = pixels.shape[:2]
        assert min(height, width) > 100
        colours = np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)
        assert len(colours) > 20, name
        ink = (pixels[..., :3] < 0.95).any(axis=-1).mean()
        assert 0.01 < ink < 0.7, (name, ink)


def test_other_figures_give_other_pictures(invented: Invented, tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "1"), RunFolder(tmp_path / "2")
    for folder in (first, second):
        folder.root.mkdir()
    draw(first, *invented)
    changed = dict(invented.histories)
    run = Run("first", 0, invented.config.tasks)
    metric = [[value + 0.2 for value in values] for values in changed[run]["metric"]]
    changed[run] = {**changed[run], "metric": metric, "cosine": [[0.9]] * 3}
    draw(second, *invented._replace(histories=changed))
    for name, same in (("losses", False), ("cosines", False), ("overhead", True)):
        pictures = [folder.picture(name).read_bytes() for folder in (first, second)]
        assert (pictures[0] == pictures[1]) == same, name


def test_curves_are_means_over_the_seeds(invented: Invented) -> None:
    figure = draw_curves(invented.config, invented.methods, invented.histories)
    assert _labels(figure) == [SINGLE, PLAIN, "first", "second"]
    axes = {axis.get_subplotspec().get_geometry()[2]: axis for axis in figure.axes}  # type: ignore[union-attr]
    lines = {str(line.get_label()): line for line in axes[1].get_lines()}
    # Training loss of the second task; runs 3 and 8 of the list are those of the first method.
    expected = [np.mean([0.53 + 1, 0.58 + 1]) / (1 + epoch) for epoch in range(3)]
    np.testing.assert_allclose(lines["first"].get_ydata(), expected)
    # Test accuracy of the first task in percent; its single-task runs are 0 and 5.
    lines = {str(line.get_label()): line for line in axes[2].get_lines()}
    np.testing.assert_allclose(lines[SINGLE].get_ydata(), [52.5, 62.5, 72.5])


def test_every_method_has_a_line_of_its_own(invented: Invented) -> None:
    methods = [f"method-{index}" for index in range(30)]
    histories = {
        run: invented.histories[Run("first", run.seed, run.tasks)]
        if run.method not in (SINGLE, PLAIN)
        else invented.histories[run]
        for run in invented.config.runs(methods)
    }
    figure = draw_curves(invented.config, methods, histories)
    lines = figure.axes[0].get_lines()
    looks = {(str(line.get_color()), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len(looks) == 32
    assert _labels(figure) == [SINGLE, PLAIN, *methods]


def test_cosines_are_means_over_the_seeds_in_a_symmetric_matrix(invented: Invented) -> None:
    figure = draw_cosines(invented.config, invented.methods, invented.histories)
    assert figure is not None
    panels = [axis for axis in figure.axes if axis.get_images()]
    # One method has measured any, in three epochs.
    assert [axis.get_title() for axis in panels] == ["epoch 1", "epoch 2", "epoch 3"]
    assert panels[0].get_ylabel() == "first"
    for axis, value in zip(panels, (0.5, 0.05, -0.25), strict=True):
        shown = np.ma.filled(axis.get_images()[0].get_array(), np.nan)
        np.testing.assert_allclose(shown, [[np.nan, value], [value, np.nan]])
        texts = {text.get_text() for text in axis.texts}
        assert texts == {f"{value:+.2f}".replace("0.", ".").replace("-", "−")}


@pytest.mark.parametrize(
    ("epochs", "shown"), [(1, [1]), (5, [1, 2, 3, 4, 5]), (21, [1, 6, 11, 16, 21])]
)
def test_the_first_and_the_last_epoch_are_among_the_matrices(epochs: int, shown: list[int]) -> None:
    config = Config(tasks=("digit", "parity", "at-least-five"), seeds=(0,), epochs=epochs)
    history = {"cosine": [[0.1, 0.2, 0.3]] * epochs}
    figure = draw_cosines(config, ["sum"], {Run("sum", 0, config.tasks): history})
    assert figure is not None
    panels = [axis for axis in figure.axes if axis.get_images()]
    assert [axis.get_title() for axis in panels] == [f"epoch {epoch}" for epoch in shown]
    nan = np.nan
    np.testing.assert_allclose(
        np.ma.filled(panels[0].get_images()[0].get_array(), nan),
        [[nan, 0.1, 0.2], [0.1, nan, 0.3], [0.2, 0.3, nan]],
    )


def test_a_pair_without_a_cosine_is_left_blank() -> None:
    config = Config(tasks=("digit", "parity"), seeds=(0,), epochs=1)
    history = {"cosine": [[float("nan")]]}
    figure = draw_cosines(config, ["sum"], {Run("sum", 0, config.tasks): history})
    assert figure is not None
    assert [text for axis in figure.axes for text in axis.texts] == []


def test_without_cosines_there_is_no_picture_and_an_old_one_goes(
    invented: Invented, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    draw(folder, *invented)
    assert folder.picture("cosines").exists()
    assert draw(folder, *invented._replace(methods=["second"])) == ["losses", "overhead"]
    assert not folder.picture("cosines").exists()


def test_bars_are_ratios_to_the_plain_sum_the_cheapest_on_top(invented: Invented) -> None:
    axis = draw_overhead(invented.config, invented.methods, invented.timing).axes[0]
    bars = dict(
        zip(
            [label.get_text() for label in axis.get_yticklabels()],
            [patch.get_width() for patch in axis.patches],
            strict=True,
        )
    )
    expected = {PLAIN: 1.0, "second": 1.5, f"{SINGLE} (all tasks)": 2.0, "first": 3.0}
    assert bars == pytest.approx(expected)
    assert list(bars) == list(expected)
    assert axis.yaxis_inverted()
    assert [text.get_text() for text in axis.texts][-1] == "3.00×  ·  6.0 ms"

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure

from fasthmr.errors import MissingExtra
from fasthmr.io import plots
from fasthmr.io.images import read_image
from fasthmr.io.plots import Mark, Panel, Point, need_plots, plot_curves, plot_marks, plot_panels


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn."""
    drawn: list[Figure] = []
    write = plots._write

    def watched(figure, path):
        drawn.append(figure)
        write(figure, path)

    monkeypatch.setattr(plots, "_write", watched)
    return drawn


def test_curves_lie_where_their_values_are(tmp_path, figures):
    rising = np.linspace(0, 10, 50)
    plot_curves({"up": rising, "down": 10 - rising}, tmp_path / "curves.png", seconds=2.0, unit="mm")
    up, down = figures[0].axes[0].lines
    assert up.get_zorder() > down.get_zorder()
    np.testing.assert_allclose(up.get_xdata()[[0, -1]], [0, 2])
    np.testing.assert_array_equal(down.get_ydata(), 10 - rising)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["up", "down"]
    assert read_image(tmp_path / "curves.png").std() > 5


def test_marks_have_their_intervals(tmp_path, figures):
    marks = [
        Mark(line="a", label=f"S{x}", x=float(x), y=10.0 * x, low=10.0 * x - 1, high=10.0 * x + 2)
        for x in (3, 2)
    ]
    plot_marks(marks, tmp_path / "marks.png", across="G", upwards="mm")
    axes = figures[0].axes[0]
    (bars,) = axes.containers
    assert bars.lines[0].get_xdata().tolist() == [2, 3]
    assert bars.lines[2][0].get_segments()[0].tolist() == [[2, 19], [2, 22]]
    assert {text.get_text() for text in axes.texts} == {"S2", "S3"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("G", "mm")


def test_names_do_not_cover_each_other(tmp_path, figures):
    rng = np.random.default_rng(0)
    points = tuple(
        Point(x=x, y=y, name=f"swin_t_s{i}", family="abc"[i % 3], front=i % 4 == 0)
        for i, (x, y) in enumerate(10 ** rng.random((24, 2)))
    )
    panel = Panel(title="t", x_label="x", y_label="y", points=points)
    plot_panels([[panel, panel], [panel]], tmp_path / "panels.png", title="title")
    axes = figures[0].axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 24
    assert not any(a.shrunk(0.9, 0.8).overlaps(b.shrunk(0.9, 0.8)) for a, b in combinations(boxes, 2))
    front = axes.lines[0]
    assert front.get_xdata().tolist() == sorted(point.x for point in points if point.front)
    height, width, _ = read_image(tmp_path / "panels.png").shape
    assert 1.2 < width / height < 1.4


@pytest.mark.parametrize(
    "values",
    [(3.0,), (1.0, 1.0), (0.02, 4000.0), (9.0, 9.5), (-1.0, 2.0), (0.0, 0.0), (0.0, 2.0)],
)
@pytest.mark.parametrize("log", [False, True])
def test_axes_hold_all_numbers_and_have_ticks(tmp_path, figures, values, log):
    points = tuple(Point(x=x, y=x, name="m", family="f", front=False) for x in values)
    panel = Panel(title="t", x_label="x", y_label="y", points=points, log_x=log)
    plot_panels([[panel]], tmp_path / "panels.png", title="title")
    axes = figures[0].axes[0]
    low, high = axes.get_xlim()
    assert low <= min(values) <= max(values) <= high
    assert axes.get_xscale() == ("log" if log and min(values) > 0 else "linear")
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 12


def test_what_is_missing_is_said_before_anything_is_measured(monkeypatch):
    need_plots()
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"fasthmr\[eval\]"):
        need_plots()

"""Plots of reports, drawn by matplotlib without a screen (extra `eval`)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from fasthmr.errors import MissingExtra
from fasthmr.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_DPI = 100
_TICKS = ((30, (1, 2, 3, 5, 7)), (3000, (1, 3)), (math.inf, (1,)))
"""Leading digits of ticks on logarithmic axes, by the ratio of the largest to the least number."""

_STEPS = 100
"""Rounds in which names move away from each other."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a line, with an interval upwards and downwards."""

    line: str
    label: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """A named point. Those of the front are filled and joined by a line."""

    x: float
    y: float
    name: str
    family: str
    front: bool


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot. Axes are logarithmic where numbers are positive and `log_x` says so; y always is."""

    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    log_x: bool = True


def need_plots() -> None:
    """For commands that draw once they have measured.

    Raises:
        MissingExtra: What draws is not installed.
    """
    for package in ("matplotlib", "adjustText"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "eval")


def plot_curves(
    curves: Mapping[str, Float[np.ndarray, "samples"]], path: Path, *, seconds: float, unit: str
) -> None:
    """Write curves of equal length over time, the first on top.

    Args:
        seconds: From the first to the last sample.
        unit: Of the values.
    """
    figure = _figure(9.0, 3.2)
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        times = np.linspace(0, seconds, len(values))
        axes.plot(times, values, label=name, linewidth=1.2, zorder=len(curves) - number + 2)
    _label(axes, "s", unit)
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    _write(figure, path)


def plot_marks(marks: Sequence[Mark], path: Path, *, across: str, upwards: str) -> None:
    """Write points with intervals, those of a line joined.

    Args:
        across, upwards: What the axes are.
    """
    figure = _figure(7.6, 4.4)
    axes = figure.subplots()
    for line, group in groupby(sorted(marks, key=lambda mark: (mark.line, mark.x)), lambda mark: mark.line):
        own = list(group)
        x, y = [mark.x for mark in own], [mark.y for mark in own]
        reach = [[mark.y - mark.low for mark in own], [mark.high - mark.y for mark in own]]
        axes.errorbar(x, y, yerr=reach, label=line, marker="o", linewidth=1.2, capsize=3)
        for mark in own:
            axes.annotate(mark.label, (mark.x, mark.y), (6, 5), textcoords="offset points", fontsize=9)
    _label(axes, across, upwards)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    _write(figure, path)


def plot_panels(rows: Sequence[Sequence[Panel]], path: Path, *, title: str) -> None:
    """Write plots of named points beside and below each other, with one legend of families at the top."""
    from matplotlib.lines import Line2D

    columns = max(len(row) for row in rows)
    figure = _figure(7.6 * columns, 5.6 * len(rows) + 0.5)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    families = sorted({point.family for row in rows for panel in row for point in panel.points})
    colours = {family: f"C{number % 10}" for number, family in enumerate(families)}
    drawn = []
    for row, places in zip(rows, grid, strict=True):
        for axes in places[len(row) :]:
            axes.axis("off")
        drawn += [(axes, panel) for panel, axes in zip(row, places[: len(row)], strict=True)]
    for axes, panel in drawn:
        _draw_panel(axes, panel, colours)
    figure.legend(
        handles=[Line2D([], [], color=colours[name], marker="o", ls="", label=name) for name in families],
        loc="outside upper center",
        ncols=len(families),
        frameon=False,
        title=title,
    )
    figure.draw_without_rendering()  # names are placed once the axes have their places
    for axes, panel in drawn:
        _write_names(axes, panel.points, colours)
    _write(figure, path)


def _draw_panel(axes: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    points = panel.points
    front = sorted((point.x, point.y) for point in points if point.front)
    axes.plot([x for x, _ in front], [y for _, y in front], color="0.7", linewidth=1, zorder=1)
    for point in points:
        colour = colours[point.family]
        face = colour if point.front else "white"
        axes.plot(point.x, point.y, marker="o", color=colour, markerfacecolor=face, markersize=6)
    if panel.log_x:
        _use_log(axes.xaxis, axes.set_xscale, [point.x for point in points])
    _use_log(axes.yaxis, axes.set_yscale, [point.y for point in points])
    axes.margins(0.08)
    axes.set_title(panel.title, loc="left", fontsize=10)
    _label(axes, panel.x_label, panel.y_label)


def _use_log(axis: Axis, scale: Callable[[str], None], values: Sequence[float]) -> None:
    """A logarithmic axis with round numbers, where all are positive."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    if min(values) <= 0:
        return
    scale("log")
    ratio = max(values) / min(values)
    axis.set_major_locator(LogLocator(subs=next(subs for most, subs in _TICKS if ratio < most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _write_names(axes: Axes, points: Sequence[Point], colours: Mapping[str, str]) -> None:
    """Names beside their points, moved apart."""
    from adjustText import adjust_text

    names = [axes.text(p.x, p.y, p.name, color=colours[p.family], fontsize=8) for p in points]
    adjust_text(
        names,
        x=[p.x for p in points],
        y=[p.y for p in points],
        ax=axes,
        expand=(1.2, 1.5),
        force_static=(0.2, 0.4),
        force_text=(0.2, 0.4),
        iter_lim=_STEPS,
        arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6},
    )


def _label(axes: Axes, across: str, upwards: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(upwards)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})

"""Scatter plots with names at their points, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Number = float | int
Box = tuple[Number, Number, Number, Number]
"""Left, top, right, bottom."""

_COLOURS = (
    (214, 69, 65), (41, 121, 190), (38, 145, 84), (30, 30, 30), (160, 80, 180), (200, 130, 20),
    (20, 160, 160), (130, 90, 60), (120, 120, 120),
)  # fmt: skip
"""Red, green, blue; those of the first families; the last for all others."""

_WIDTH, _HEIGHT = 760, 560
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 40, 24, 56
_LEGEND = 40
_INK, _GRID, _FRONT = (50, 50, 50), (228, 228, 228), (170, 170, 170)
_TEXT = 0.42
_REACHES = (7, 14, 26, 40, 56, 74)
"""Distances from a point at which its name may stand."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model. Those of the front are filled and joined by a line."""

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


def draw_panels(rows: Sequence[Sequence[Panel]], title: str) -> Picture:
    """Plots beside and below each other, with one legend of families at the top."""
    width = max(len(row) for row in rows) * _WIDTH
    canvas = np.full((_LEGEND + len(rows) * _HEIGHT, width, 3), 255, dtype=np.uint8)
    points = [point for row in rows for panel in row for point in panel.points]
    families = sorted({point.family for point in points})
    colours = {family: _COLOURS[min(i, len(_COLOURS) - 1)] for i, family in enumerate(families)}
    pen = _Pen(canvas)
    place = pen.write(title, 12, 24, _INK) + 30
    for family, colour in colours.items():
        pen.dot(place, 20, colour, filled=True)
        place = pen.write(family, place + 9, 24, colour) + 24
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            top = _LEGEND + number * _HEIGHT
            area = canvas[top : top + _HEIGHT, column * _WIDTH : (column + 1) * _WIDTH]
            _draw(_Pen(area), panel, colours)
    return canvas


class _Pen:
    """Marks and writing on a part of a picture."""

    def __init__(self, canvas: Picture) -> None:
        self._canvas = canvas

    def write(self, text: str, x: Number, y: Number, colour: tuple[int, int, int]) -> int:
        """Writes to the right of (x, y), the base line, and returns where it ends."""
        import cv2

        at = (round(x), round(y))
        cv2.putText(self._canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, _TEXT, colour, 1, cv2.LINE_AA)
        return at[0] + self.size(text)[0]

    def upwards(self, text: str, x: int, bottom: int) -> None:
        """Writes from the bottom to the top."""
        width, height = self.size(text)
        strip = np.full((height + 8, width + 2, 3), 255, dtype=np.uint8)
        _Pen(strip).write(text, 0, height + 2, _INK)
        turned = np.rot90(strip)
        top = max(bottom - turned.shape[0], 0)
        self._canvas[top : top + turned.shape[0], x : x + turned.shape[1]] = turned

    @staticmethod
    def size(text: str) -> tuple[int, int]:
        """Width and height of a text."""
        import cv2

        width, height = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _TEXT, 1)[0]
        return width, height

    def line(
        self, start: tuple[Number, Number], end: tuple[Number, Number], colour: tuple[int, int, int]
    ) -> None:
        import cv2

        a, b = (round(start[0]), round(start[1])), (round(end[0]), round(end[1]))
        cv2.line(self._canvas, a, b, colour, 1, cv2.LINE_AA)

    def dot(self, x: Number, y: Number, colour: tuple[int, int, int], *, filled: bool) -> None:
        import cv2

        at = (round(x), round(y))
        cv2.circle(self._canvas, at, 5 if filled else 4, colour, -1 if filled else 1, cv2.LINE_AA)


def _draw(pen: _Pen, panel: Panel, colours: dict[str, tuple[int, int, int]]) -> None:
    across = _Axis([p.x for p in panel.points], _LEFT, _WIDTH - _RIGHT, log=panel.log_x)
    up = _Axis([p.y for p in panel.points], _HEIGHT - _BOTTOM, _TOP, log=True)
    inside = (_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM)
    for value in across.ticks():
        x = across.place(value)
        pen.line((x, inside[1]), (x, inside[3]), _GRID)
        text = f"{value:g}"
        pen.write(text, x - pen.size(text)[0] / 2, inside[3] + 18, _INK)
    for value in up.ticks():
        y = up.place(value)
        pen.line((inside[0], y), (inside[2], y), _GRID)
        text = f"{value:g}"
        pen.write(text, inside[0] - 8 - pen.size(text)[0], y + 4, _INK)
    pen.write(panel.title, inside[0], inside[1] - 14, _INK)
    pen.write(panel.x_label, (inside[0] + inside[2] - pen.size(panel.x_label)[0]) / 2, inside[3] + 42, _INK)
    pen.upwards(panel.y_label, 8, (inside[1] + inside[3] + pen.size(panel.y_label)[0]) // 2)
    placed = [(across.place(p.x), up.place(p.y), p) for p in panel.points]
    line = sorted((x, y) for x, y, p in placed if p.front)
    for start, end in pairwise(line):
        pen.line(start, end, _FRONT)
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y, _ in placed]
    for x, y, point in sorted(placed, key=lambda entry: not entry[2].front):
        pen.dot(x, y, colours[point.family], filled=point.front)
        box = _free_place(
            pen.size(point.name), x, y, taken, inside, _REACHES if point.front else _REACHES[:4]
        )
        if box is None:
            continue
        taken.append(box)
        near = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
        if math.dist(near, (x, y)) > _REACHES[0] + 4:
            pen.line((x, y), near, _FRONT)
        pen.write(point.name, box[0] + 1, box[3] - 2, colours[point.family])


def _free_place(
    size: tuple[int, int], x: Number, y: Number, taken: Sequence[Box], inside: Box, reaches: Sequence[int]
) -> Box | None:
    """Where a name has room beside its point, as near as can be; None where it has not."""
    width, height = size[0] + 2, size[1] + 4
    for reach in reaches:
        beside, half = 0.7 * reach, height / 2
        for left, top in (
            (x + reach, y - half),
            (x - reach - width, y - half),
            (x - width / 2, y - reach - height),
            (x - width / 2, y + reach),
            (x + beside, y - beside - height),
            (x - beside - width, y - beside - height),
            (x + beside, y + beside),
            (x - beside - width, y + beside),
        ):
            box = (left, top, left + width, top + height)
            fits = box[0] >= inside[0] and box[2] <= inside[2] and box[1] >= inside[1] and box[3] <= inside[3]
            if fits and not any(_overlap(box, other) for other in taken):
                return box
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


class _Axis:
    """Numbers to places, with some room at both ends."""

    def __init__(self, values: Sequence[float], start: Number, end: Number, *, log: bool) -> None:
        self._log = log and min(values) > 0
        self._start, self._end = start, end
        low, high = (self._turned(value) for value in (min(values), max(values)))
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        self._low, self._high = low - room, high + room

    def _turned(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def place(self, value: float) -> float:
        """Of a number, in pixels."""
        share = (self._turned(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Round numbers on the axis, about four to eight."""
        if self._log:
            powers = range(math.floor(self._low), math.ceil(self._high) + 1)
            for factors in (
                (1,),
                (1, 3),
                (1, 2, 5),
                (1, 1.5, 2, 3, 5, 7),
                tuple(1 + i / 10 for i in range(90)),
            ):
                all_of_them = [float(f"{factor}e{power}") for power in powers for factor in factors]
                inside = [value for value in all_of_them if self._low <= math.log10(value) <= self._high]
                if len(inside) >= 4:
                    break
            return inside
        span = self._high - self._low
        step = 10.0 ** math.floor(math.log10(span))
        step *= next(factor for factor in (0.1, 0.2, 0.5, 1, 2) if span / (step * factor) <= 8)
        first = math.ceil(self._low / step)
        return [round(float(step * i), 10) for i in range(first, math.floor(self._high / step) + 1)]

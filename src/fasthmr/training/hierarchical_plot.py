"""Points with intervals, those of a family joined, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fasthmr.io.images import write_image

_COLOURS = ((30, 100, 200), (20, 150, 60), (220, 120, 20), (170, 60, 170), (90, 90, 90), (200, 40, 60))
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 40, 30, 40
_LINES = 5
_MARGIN = 0.08


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a line, with an interval upwards and downwards."""

    line: str
    label: str
    x: float
    y: float
    low: float
    high: float


def draw_marks(
    marks: Sequence[Mark], path: Path, *, across: str, upwards: str, size: tuple[int, int] = (760, 440)
) -> None:
    """Write a picture of points.

    Args:
        across, upwards: What the axes are.
        size: Width and height in pixels.

    Raises:
        ValueError: There are more lines than colours.
    """
    import cv2

    lines = list(dict.fromkeys(mark.line for mark in marks))
    if len(lines) > len(_COLOURS):
        raise ValueError(f"{len(lines)} lines, but {len(_COLOURS)} colours")
    width, height = size
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    x_range = (0.0, (1 + _MARGIN) * max(mark.x for mark in marks))
    y_range = _range([value for mark in marks for value in (mark.low, mark.high)])
    right, bottom = width - _RIGHT, height - _BOTTOM

    def place(x: float, y: float) -> tuple[int, int]:
        share_x = (x - x_range[0]) / (x_range[1] - x_range[0])
        share_y = (y - y_range[0]) / (y_range[1] - y_range[0])
        return round(_LEFT + share_x * (right - _LEFT)), round(bottom - share_y * (bottom - _TOP))

    def write(text: str, x: int, y: int, colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

    for share in np.linspace(0, 1, _LINES):
        x, y = (low + share * (high - low) for low, high in (x_range, y_range))
        column, row = place(x, y)
        cv2.line(canvas, (_LEFT, row), (right, row), (225, 225, 225), 1)
        write(f"{y:.3g}", 16, row + 4)
        write(f"{x:.2g}", column - 12, height - 20)
    write(upwards, 16, _TOP - 18)
    write(across, right - 40, height - 4)
    for number, line in enumerate(lines):
        colour = _COLOURS[number]
        own = sorted((mark for mark in marks if mark.line == line), key=lambda mark: mark.x)
        points = np.array([place(mark.x, mark.y) for mark in own], dtype=np.int32)
        cv2.polylines(canvas, [points], False, colour, 1, cv2.LINE_AA)
        for mark, (column, row) in zip(own, points.tolist(), strict=True):
            cv2.line(canvas, place(mark.x, mark.low), place(mark.x, mark.high), colour, 1)
            cv2.circle(canvas, (column, row), 4, colour, -1, cv2.LINE_AA)
            write(mark.label, column + 7, row - 5, colour)
        write(line, _LEFT + 90 + 150 * number, _TOP - 18, colour)
    write_image(path, canvas)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest, with some room."""
    low, high = min(values), max(values)
    room = _MARGIN * (high - low) or 1.0
    return low - room, high + room

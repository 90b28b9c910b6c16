"""Curves over time as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.io.images import write_image

_COLOURS = ((30, 30, 30), (20, 150, 60), (70, 110, 220), (240, 170, 150), (170, 60, 170))
"""Red, green, blue; those of the first curves."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 34, 12, 34
_LINES = 5


def draw_curves(
    curves: Mapping[str, Float[np.ndarray, "samples"]],
    path: Path,
    *,
    seconds: float,
    unit: str,
    size: tuple[int, int] = (900, 320),
) -> None:
    """Write curves of equal length that are drawn one over another, the first on top.

    Args:
        seconds: From the first to the last sample.
        unit: Of the values.
        size: Width and height in pixels.

    Raises:
        ValueError: There are more curves than colours.
    """
    if len(curves) > len(_COLOURS):
        raise ValueError(f"{len(curves)} curves, but {len(_COLOURS)} colours")
    write_image(path, _drawn(curves, seconds, unit, size))


def _drawn(
    curves: Mapping[str, Float[np.ndarray, "samples"]], seconds: float, unit: str, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    import cv2

    width, height = size
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    values = np.stack(list(curves.values()))
    low, high = float(values.min()), float(values.max())
    high = high if high > low else low + 1
    right, bottom = width - _RIGHT, height - _BOTTOM

    def write(text: str, x: int, y: int, colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

    for share in np.linspace(0, 1, _LINES):
        y = round(bottom - share * (bottom - _TOP))
        cv2.line(canvas, (_LEFT, y), (right, y), (225, 225, 225), 1)
        write(f"{low + share * (high - low):.0f}", 8, y + 4)
        x = round(_LEFT + share * (right - _LEFT))
        write(f"{share * seconds:.1f} s", min(x, right - 36), height - 12)
    write(unit, 8, _TOP - 16)
    colours = _COLOURS[: len(values)]
    place = _LEFT + 60
    for name, colour in zip(curves, colours, strict=True):
        write(name, place, _TOP - 16, colour)
        place += 12 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0]
    x = np.linspace(_LEFT, right, values.shape[1])
    for curve, colour in reversed([*zip(values, colours, strict=True)]):
        y = bottom - (curve - low) / (high - low) * (bottom - _TOP)
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        cv2.polylines(canvas, [points], False, colour, 1, cv2.LINE_AA)
    return canvas

"""Boxes of people, or hands, that the user brings along, as JSON or CSV.

JSON: `{"photo.jpg": [[x1, y1, x2, y2, score, side], ...], ...}`; an empty list means that nobody is there.
CSV: rows `file,x1,y1,x2,y2,score,side`, with or without a header; a row with a file name alone means nobody.
The score may be left out, and so may the side, "left" or "right", which is for hands. Files are named by
their path as given, relative to the boxes file, or by name.

Frames of videos are named by their number from 0 on: `clip.mp4#12`, or `12` where the file is about one
video. In frames that are not listed, people are on the way from one listed frame to the next.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fasthmr.errors import InputError
from fasthmr.types import Detections

_MAX_BYTES = 256 << 20
_SIDES = {"left": 1.0, "right": 0.0}


class BoxesFile:
    """Boxes by picture.

    Attributes:
        digest: Tells whether two files have the same content.

    Raises:
        InputError: The file is missing, too large, or not in one of the two forms.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        text = _read_text(self.path)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._rows = (
            _parse_csv(self.path, text)
            if self.path.suffix.lower() == ".csv"
            else _parse_json(self.path, text)
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def tells_sides(self) -> bool:
        """Whether a box is said to be a left or a right hand."""
        return any(not np.isnan(box[-1]) for boxes in self._rows.values() for box in boxes)

    def boxes_for(self, picture: str | Path, left: bool | None = None) -> Detections:
        """The boxes of a picture, as they stand in the file.

        Args:
            left: For hands, whether those are left ones of which the file does not say.

        Raises:
            InputError: The picture is not listed.
        """
        for name in self._names(Path(picture)):
            if name in self._rows:
                return _detections(self._rows[name], left)
        raise InputError(
            f"{picture}: no boxes in {self.path}; add an entry '{Path(picture).name}' "
            "(an empty list for nobody)"
        )

    def frames_of(self, video: str | Path, left: bool | None = None) -> dict[int, Detections]:
        """The boxes of a video by the number of the frame; arguments as for `boxes_for`.

        Raises:
            InputError: No frame of it is listed.
        """
        video = Path(video)
        frames: dict[str, dict[int, Detections]] = {}
        for key, boxes in self._rows.items():
            name, _, number = key.rpartition("#")
            if number.isascii() and number.isdecimal() and len(number) < 12:
                frames.setdefault(name, {})[int(number)] = _detections(boxes, left)
        for name in (*self._names(video), ""):
            if name in frames:
                return frames[name]
        raise InputError(
            f"{video}: no boxes in {self.path}; name frames '{video.name}#0', '{video.name}#1', ..., "
            "or '0', '1', ... where the file is about one video"
        )

    def _names(self, path: Path) -> list[str]:
        """How the file may call a picture or video."""
        names = [str(path), path.as_posix(), path.name]
        if path.resolve().is_relative_to(self.path.parent.resolve()):
            names.insert(2, path.resolve().relative_to(self.path.parent.resolve()).as_posix())
        return names


def _detections(boxes: list[list[float]], left: bool | None) -> Detections:
    table = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    sides = None
    if left is not None:
        sides = table[:, 5].nan_to_num(float(left)).bool()
    return Detections(boxes_xyxy=table[:, :4], scores=table[:, 4], left=sides)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: more than {_MAX_BYTES >> 20} MB; split the boxes into several files")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: the boxes cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; give boxes as JSON or CSV") from error


def _parse_json(path: Path, text: str) -> dict[str, list[list[float]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); give {{file: [[x1, y1, x2, y2], ...]}}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; give {{file: [[x1, y1, x2, y2], ...]}}")
    rows: dict[str, list[list[float]]] = {}
    for name, boxes in content.items():
        if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
            raise InputError(f"{path}: '{name}' needs a list of boxes [x1, y1, x2, y2, score, side]")
        rows[name] = [_row(path, name, box) for box in boxes]
    return rows


def _parse_csv(path: Path, text: str) -> dict[str, list[list[float]]]:
    rows: dict[str, list[list[float]]] = {}
    try:
        table = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table ({error})") from error
    if table and [cell.strip() for cell in table[0][1:5]] == ["x1", "y1", "x2", "y2"]:
        table = table[1:]
    for cells in table:
        boxes = rows.setdefault(cells[0].strip(), [])
        values = [cell.strip() for cell in cells[1:]]
        while values and not values[-1]:
            values.pop()
        if values:
            boxes.append(_row(path, cells[0], values))
    return rows


def _row(path: Path, name: str, values: Sequence[object]) -> list[float]:
    """Corners, score (1 where missing) and side (1 for left, 0 for right, NaN where nothing is said)."""
    side, numbers = float("nan"), list(values)
    if numbers and isinstance(numbers[-1], str) and numbers[-1].strip().lower() in _SIDES:
        side = _SIDES[str(numbers.pop()).strip().lower()]
    while numbers and numbers[-1] == "":  # no score before the side
        numbers.pop()
    count = len(numbers)
    try:
        found = [float(value) for value in numbers if not isinstance(value, bool)]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = []
    if count not in (4, 5) or len(found) != count or not all(map(_is_finite, found)):
        raise InputError(
            f"{path}: '{name}' has the box {values}; needed: four numbers x1, y1, x2, y2, perhaps a score, "
            "and for hands perhaps 'left' or 'right'"
        )
    return [*found, *([1.0] if count == 4 else []), side]


def _is_finite(number: float) -> bool:
    return abs(number) < 1e9

"""Boxes of people that the user brings along, as JSON or CSV.

JSON: `{"photo.jpg": [[x1, y1, x2, y2, score], ...], ...}`; an empty list means that nobody is there.
CSV: rows `file,x1,y1,x2,y2,score`, with or without a header; a row with a file name alone means nobody.
The score may be left out. Files are named by their path as given, relative to the boxes file, or by name.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fasthmr.errors import InputError
from fasthmr.types import Detections

_MAX_BYTES = 256 << 20


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

    def boxes_for(self, picture: str | Path) -> Detections:
        """The boxes of a picture, as they stand in the file.

        Raises:
            InputError: The picture is not listed.
        """
        picture = Path(picture)
        names = [str(picture), picture.as_posix(), picture.name]
        if picture.resolve().is_relative_to(self.path.parent.resolve()):
            names.insert(2, picture.resolve().relative_to(self.path.parent.resolve()).as_posix())
        for name in names:
            if name in self._rows:
                table = torch.tensor(self._rows[name], dtype=torch.float32).reshape(-1, 5)
                return Detections(boxes_xyxy=table[:, :4], scores=table[:, 4])
        raise InputError(
            f"{picture}: no boxes in {self.path}; add an entry '{picture.name}' (an empty list for nobody)"
        )


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
            raise InputError(f"{path}: '{name}' needs a list of boxes [x1, y1, x2, y2, score]")
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
    """Five finite numbers; a missing score counts as 1."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) not in (4, 5) or len(numbers) != len(values) or not all(map(_is_finite, numbers)):
        raise InputError(
            f"{path}: '{name}' has the box {values}; needed: four numbers x1, y1, x2, y2 and a score"
        )
    return numbers if len(numbers) == 5 else [*numbers, 1.0]


def _is_finite(number: float) -> bool:
    return abs(number) < 1e9

"""2D keypoints as .json in the results format of COCO: a list with one entry per person and picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fasthmr.errors import InputError
from fasthmr.io.atomic import write_bytes
from fasthmr.results import PoseClip

PERSON_CATEGORY = 1
_DECIMALS = 3


def coco_results(clip: PoseClip) -> list[dict[str, Any]]:
    """One entry per person and frame: `image_id, category_id, keypoints (x, y, score ...), score, bbox (x, y,
    width, height)`, and `file_name` beside what COCO asks for. Pixels are rounded to 1e-3."""
    return [
        {
            "image_id": int(clip.image_ids[frame]),
            "category_id": PERSON_CATEGORY,
            "keypoints": _rounded(person.keypoints_2d[index].reshape(-1)),
            "score": round(float(person.scores[index]), 6),
            "bbox": _rounded(
                np.concatenate(
                    [
                        person.boxes_xyxy[index, :2],
                        person.boxes_xyxy[index, 2:] - person.boxes_xyxy[index, :2],
                    ]
                )
            ),
            "file_name": clip.source,
        }
        for person in clip.persons
        for index, frame in enumerate(person.frames)
    ]


def write_coco_json(clip: PoseClip, path: Path) -> Path:
    """Writes the people of a clip."""
    return _write(path, coco_results(clip))


def join_coco_json(parts: Iterable[Path], path: Path) -> Path:
    """Writes the entries of several result files as one.

    Raises:
        InputError: A part is damaged.
    """
    rows: list[dict[str, Any]] = []
    for part in parts:
        try:
            content = json.loads(part.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{part}: not a readable result ({error}); make it again") from error
        if not isinstance(content, list):
            raise InputError(f"{part}: not a list of COCO results; make it again")
        rows += content
    return _write(path, rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = json.dumps(rows, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return write_bytes(path, text.encode("utf-8", errors="replace"))


def _rounded(values: np.ndarray) -> list[float]:
    return values.astype(np.float64).round(_DECIMALS).tolist()

"""2D keypoints as .json in the results format of COCO: a list with one entry per person and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
    text = json.dumps(coco_results(clip), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return write_bytes(path, text.encode("utf-8", errors="replace"))


def _rounded(values: np.ndarray) -> list[float]:
    return values.astype(np.float64).round(_DECIMALS).tolist()

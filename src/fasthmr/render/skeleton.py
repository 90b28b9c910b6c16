"""COCO-17 keypoints drawn over the picture they were found in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.body.skeletons import COCO17_NAMES

SCORE_THRESHOLD = 0.3
"""Keypoints with a smaller score are not drawn."""

_LIMBS = (
    *(("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")),
    *(("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear")),
    *(("left_shoulder", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle")),
    *(("right_shoulder", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle")),
    *(("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist")),
    *(("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist")),
)
_LEFT, _RIGHT, _MIDDLE = (255, 150, 40), (60, 170, 255), (235, 235, 235)  # of the person, sRGB
_OUTLINE = (25, 25, 25)
_WIDTH_PER_SIDE = 1 / 110  # of the longer side of the box
_WIDTHS = (1.5, 12.0)  # pixels
_FRACTION_BITS = 4


def draw_keypoints(
    image_rgb: UInt8[np.ndarray, "height width 3"],
    people: Sequence[Float[np.ndarray, "17 3"]],
    boxes_xyxy: Sequence[Float[np.ndarray, "4"]],
    threshold: float = SCORE_THRESHOLD,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws people over a copy of the picture, the person's left orange, the right blue.

    Lines are as wide as suits the size of the person and of the picture; a limb is drawn where both its ends
    have a score of at least `threshold`. The first of `people` is drawn on top.

    Args:
        people: COCO-17 points (x, y in pixels, score); points that are not finite are left out.
        boxes_xyxy: Box of each person in pixels, for the width of the lines.
    """
    import cv2

    canvas = np.ascontiguousarray(image_rgb).copy()
    limit = float(max(canvas.shape[:2])) * 4  # far outside; keeps coordinates within OpenCV's integers
    for points, box in reversed(list(zip(people, boxes_xyxy, strict=True))):
        side = float(max(box[2] - box[0], box[3] - box[1]))
        width = float(np.clip(side * _WIDTH_PER_SIDE, *_WIDTHS))
        seen = (points[:, 2] >= threshold) & np.isfinite(points).all(axis=1)
        seen &= (np.abs(np.nan_to_num(points[:, :2])) < limit).all(axis=1)
        places = np.rint(np.where(seen[:, None], points[:, :2], 0) * (1 << _FRACTION_BITS)).astype(int)
        for outline in (True, False):
            thick = max(round(width + 2 * max(1.0, width / 4)), 3) if outline else max(round(width), 1)
            radius = width * 1.1 + (max(1.0, width / 4) if outline else 0)
            for a, b in _EDGES:
                if seen[a] and seen[b]:
                    color = _OUTLINE if outline else _color(a, b)
                    start, end = tuple(places[a].tolist()), tuple(places[b].tolist())
                    cv2.line(canvas, start, end, color, thick, cv2.LINE_AA, _FRACTION_BITS)
            for joint in np.flatnonzero(seen).tolist():
                color = _OUTLINE if outline else _color(joint, joint)
                center, size = tuple(places[joint].tolist()), round(radius * (1 << _FRACTION_BITS))
                cv2.circle(canvas, center, size, color, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)
    return canvas


def _color(a: int, b: int) -> tuple[int, int, int]:
    """By the side that both ends are on; the nose counts as on the other's side."""
    sides = {name.split("_")[0] for name in (COCO17_NAMES[a], COCO17_NAMES[b])} - {"nose"}
    return {"left": _LEFT, "right": _RIGHT}[sides.pop()] if len(sides) == 1 else _MIDDLE


_EDGES = tuple((COCO17_NAMES.index(a), COCO17_NAMES.index(b)) for a, b in _LIMBS)

"""COCO keypoint results: scores of instances, doubled poses, AP and AR, and the file format.

The steps of top-down pose estimators after the network (ViTPose, arXiv 2204.12484, with mmpose): a person's
score is that of the box times the mean of the point scores above 0.2, poses of an OKS above 0.9 to a better
one are dropped, and COCO's keypoint evaluation takes at most 20 a picture.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.errors import InputError, MissingExtra
from fasthmr.geometry.oks import COCO_SIGMAS, oks_nms
from fasthmr.io.atomic import write_bytes

PERSON_CATEGORY = 1
METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
"""What COCO's keypoint evaluation reports, 0..1; -1 where no person of that size is annotated."""

Results = list[dict[str, Any]]
"""COCO keypoint results: dicts of `image_id`, `category_id`, `keypoints` (x, y, score flat) and `score`."""


@dataclass(frozen=True, kw_only=True)
class PoseDetections:
    """Estimated poses of one picture.

    Attributes:
        image_id: The picture in the annotation file.
        keypoints: x, y in pixels and score 0..1.
        area: Of the box grown for the crop, pixels squared.
        box_scores: Of the person detector; ones for annotated boxes.
    """

    image_id: int
    keypoints: Float[Tensor, "persons points 3"]
    area: Float[Tensor, "persons"]
    box_scores: Float[Tensor, "persons"]


def rescore(
    keypoint_scores: Float[Tensor, "persons points"],
    box_scores: Float[Tensor, "persons"],
    threshold: float = 0.2,
) -> Float[Tensor, "persons"]:
    """Box score times the mean of the point scores above the threshold; 0 where none is."""
    counted = keypoint_scores > threshold
    mean = (keypoint_scores * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return mean * box_scores


def keypoint_results(
    detections: Sequence[PoseDetections],
    *,
    score_threshold: float = 0.2,
    nms_threshold: float = 0.9,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> Results:
    """Rescored poses without doubles, picture by picture, best first, in the COCO results format."""
    results: Results = []
    for found in detections:
        scores = rescore(found.keypoints[..., 2], found.box_scores, score_threshold)
        for person in oks_nms(found.keypoints[..., :2], found.area, scores, nms_threshold, sigmas).tolist():
            results.append(
                {
                    "image_id": found.image_id,
                    "category_id": PERSON_CATEGORY,
                    "keypoints": found.keypoints[person].flatten().tolist(),
                    "score": float(scores[person]),
                }
            )
    return results


def keypoint_ap(
    ground_truth: Mapping[str, Any], results: Results, sigmas: Sequence[float] = COCO_SIGMAS
) -> dict[str, float]:
    """AP and AR of COCO keypoint results, under the names of `METRICS`.

    Args:
        ground_truth: A COCO annotation file as read by json; areas are those of its annotations.

    Raises:
        MissingExtra: faster-coco-eval is not installed.
        InputError: A result belongs to a picture that the ground truth does not have.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise MissingExtra("faster-coco-eval", "eval") from None
    known = {image["id"] for image in ground_truth["images"]}
    strange = sorted({row["image_id"] for row in results} - known)
    if strange:
        raise InputError(
            f"{len(strange)} pictures of the results are not in the ground truth, first {strange[0]}"
        )
    truth = COCO(copy.deepcopy(dict(ground_truth)))
    evaluation = COCOeval_faster(
        truth, truth.loadRes(copy.deepcopy(results)), iouType="keypoints", kpt_oks_sigmas=list(sigmas)
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRICS, np.asarray(evaluation.all_stats, dtype=float).tolist(), strict=True))


def write_results(results: Results, path: Path | str) -> Path:
    """Write COCO results as json.

    Raises:
        ResourceError: The disk is full, or the place cannot be written.
    """
    return write_bytes(Path(path), json.dumps(results, allow_nan=False).encode())


def read_results(path: Path | str) -> Results:
    """Read keypoint results, as COCO's server takes them; other entries of a result are kept.

    Raises:
        InputError: There is no such file, or it holds something else; names the file and the entry.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a json file ({error})") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds {type(rows).__name__}; COCO results are a list of detections")
    for index, row in enumerate(rows):
        problem = _problem(row)
        if problem:
            raise InputError(f"{path}: result {index} {problem}")
    return rows


def _problem(row: object) -> str:
    """What is wrong with one result, or nothing."""
    if not isinstance(row, dict):
        return f"is {type(row).__name__}, not an object"
    missing = [key for key in ("image_id", "category_id", "keypoints", "score") if key not in row]
    if missing:
        return f"has no {', '.join(missing)}"
    points = row["keypoints"]
    if not isinstance(points, list) or not points or len(points) % 3 or not all(map(_finite, points)):
        return "needs keypoints as a flat list of x, y, score"
    return (
        "" if _finite(row["score"]) and isinstance(row["image_id"], int) else "needs a number as score and id"
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def detections_by_image(
    image_ids: Sequence[int],
    keypoints: Float[Tensor, "persons points 3"],
    area: Float[Tensor, "persons"],
    box_scores: Float[Tensor, "persons"],
) -> list[PoseDetections]:
    """Persons of many pictures, in any order, gathered picture by picture (in order of first appearance)."""
    rows: dict[int, list[int]] = {}
    for row, image_id in enumerate(image_ids):
        rows.setdefault(image_id, []).append(row)
    return [
        PoseDetections(
            image_id=image_id,
            keypoints=keypoints[index],
            area=area[index],
            box_scores=box_scores[index],
        )
        for image_id, index in ((key, torch.tensor(value)) for key, value in rows.items())
    ]

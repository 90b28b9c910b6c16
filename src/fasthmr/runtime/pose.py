"""2D keypoints of people: network, scores, and the removal of people found twice."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.errors import UnsafeFileError
from fasthmr.evaluation.coco import rescore
from fasthmr.geometry.oks import oks_nms
from fasthmr.geometry.pose_crops import crop_pose, grow_to_aspect
from fasthmr.models.pose import PoseModel
from fasthmr.results import PosePerson
from fasthmr.runtime.recover import in_batches
from fasthmr.runtime.timing import Stopwatch
from fasthmr.types import Detections, PoseCrop


def find_keypoints(
    model: PoseModel,
    rgb: UInt8[np.ndarray, "height width 3"],
    boxes_xyxy: Float[Tensor, "persons 4"],
    batch_size: int,
    device: torch.device,
    watch: Stopwatch,
) -> Float[Tensor, "persons 17 3"]:
    """COCO-17 points (x, y in pixels of the picture, score) in each box, with the flip test.

    Raises:
        ResourceError: Memory is used up even with one person at a time.
    """
    with watch("crop"):
        crop = crop_pose(rgb, boxes_xyxy, model.image_size)

    def run(some: slice) -> Tensor:
        part = PoseCrop(
            pixels=crop.pixels[some].to(device),
            center=crop.center[some].to(device),
            size=crop.size[some].to(device),
        )
        return model.estimate(part).double().cpu()

    with watch("model"):
        return torch.cat(in_batches(run, len(boxes_xyxy), batch_size))


def as_pose_persons(
    people: Detections, points: Float[Tensor, "persons 17 3"], source: str
) -> tuple[PosePerson, ...]:
    """One record with one frame per person, best first, without those found twice, see `evaluation.coco`.

    Raises:
        UnsafeFileError: The model gave numbers that are not finite.
    """
    if not bool(points.isfinite().all()):
        raise UnsafeFileError(
            f"{source}: the model gave numbers that are not finite; its weights are damaged"
        )
    scores = rescore(points[..., 2], people.scores.to(points))
    boxes = people.boxes_xyxy
    _, sizes = grow_to_aspect(boxes.double(), (256, 192))
    kept = oks_nms(points[..., :2], sizes.prod(-1), scores)

    def row(values: Tensor, index: int) -> np.ndarray:
        return values[index : index + 1].float().cpu().numpy()

    return tuple(
        PosePerson(
            track_id=place,
            frames=np.zeros(1, dtype=np.int64),
            boxes_xyxy=row(boxes, index),
            scores=row(scores, index),
            keypoints_2d=row(points, index),
        )
        for place, index in enumerate(kept.tolist())
    )

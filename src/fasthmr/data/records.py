"""The labelled record of one synthetic picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fasthmr.body.skeletons import SMPL_JOINT_NAMES

POINT_NAMES: tuple[str, ...] = (
    *SMPL_JOINT_NAMES,
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
)
"""The 35 points of a record: SMPL joints, then face and foot points of the body's keypoint regressor."""

KEYPOINTS_IN_POINTS = (0, 1, 2, 3, 4, 17, 18, 19, 20, 21, 22)
"""Rows of the keypoint regressor (COCO-17, then toes and heels) that follow the joints."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticRecord:
    """One picture of one labelled person, others perhaps beside it.

    Camera axes: x right, y down, z forward, metres. Pixels: centres lie at integers.

    Attributes:
        index: Place in the split.
        rgb: The finished picture.
        mask: Coverage 0..255 of the labelled person's visible part.
        rotations: Root rotation in the camera frame, then each joint relative to its parent.
        betas: Shape coefficients, standard deviations.
        joints_3d: `POINT_NAMES` in the camera frame.
        points_2d: Their pixels.
        points_inside: Whether each lies inside the picture (and the photo it was cut from).
        coco17: Pixels of the COCO keypoints.
        coco17_inside: Whether each lies inside.
        K: Intrinsics of the picture.
        box_xyxy: Tight box of the body, or of the part shown, from projected skin; may leave the picture.
        inside_xyxy: Where the picture has content; black outside, as beyond the border of a photo.
        part: "full", or what part of the body the box holds (`fasthmr.data.framing.PARTS`).
        action: Action class of the pose.
    """

    index: int
    rgb: UInt8[np.ndarray, "height width 3"]
    mask: UInt8[np.ndarray, "height width"]
    rotations: Float[np.ndarray, "24 3 3"]
    betas: Float[np.ndarray, "betas"]
    joints_3d: Float[np.ndarray, "35 3"]
    points_2d: Float[np.ndarray, "35 2"]
    points_inside: Bool[np.ndarray, "35"]
    coco17: Float[np.ndarray, "17 2"]
    coco17_inside: Bool[np.ndarray, "17"]
    K: Float[np.ndarray, "3 3"]
    box_xyxy: Float[np.ndarray, "4"]
    inside_xyxy: Float[np.ndarray, "4"]
    part: str
    action: str

"""Training examples of HMR 2.0 (arXiv 2305.20091, released code): a crop and labels that follow it.

What is done to an example is drawn first (`draw_augmentation`, `extreme_crop`) and then carried out
(`make_example`), so that an example is a function of its file and a few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.body.skeletons import HMR2_44_FLIP, SMPL_FLIP
from fasthmr.data.extreme_crop import extreme_crop
from fasthmr.errors import InputError
from fasthmr.geometry.crops import normalize
from fasthmr.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle

_BODY_FLIP = [joint - 1 for joint in SMPL_FLIP[1:]]


@dataclass(frozen=True, kw_only=True)
class PersonLabels:
    """What is known of one person.

    Attributes:
        keypoints_2d: x, y and confidence of the 44 points, 0 where unknown; pixels of the picture on the way
            in, crop units (pixel / crop side - 0.5) on the way out.
        keypoints_3d: x, y, z in metres, camera axes, and confidence.
        global_orient, body_pose: SMPL axis-angles in the camera frame (root, then 23 joints).
        has_global_orient, has_body_pose, has_betas: Whether the label is known; else its values mean nothing.
    """

    keypoints_2d: Float[Tensor, "44 3"]
    keypoints_3d: Float[Tensor, "44 4"]
    global_orient: Float[Tensor, "3"]
    body_pose: Float[Tensor, "69"]
    betas: Float[Tensor, "betas"]
    has_global_orient: bool = True
    has_body_pose: bool = True
    has_betas: bool = True


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to one example; the defaults do nothing.

    Attributes:
        scale: Growth of the box.
        rotation_deg: Turn of the crop's axes in the picture, x towards y; the person turns the other way.
        mirrored: Swap left and right.
        color: Gain of red, green and blue.
        shift: Of the box, in its sides, before mirroring.
    """

    scale: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Strengths of HMR 2.0; normal draws are cut at 1 (scale, shift) or 2 (rotation) standard deviations.

    Attributes:
        scale, shift: Standard deviation of the growth and of the shift in box sides.
        rotation_deg: Standard deviation, applied to a share `rotate` of the examples.
        mirror: Share of mirrored examples.
        color: Half range of the channel gains.
        extreme_crop: Share of examples cut down to a part of the person.
    """

    scale: float = 0.3
    shift: float = 0.02
    rotation_deg: float = 30.0
    rotate: float = 0.6
    mirror: float = 0.5
    color: float = 0.2
    extreme_crop: float = 0.1


@dataclass(frozen=True, kw_only=True)
class HMR2Example:
    """One example.

    Attributes:
        pixels: RGB, normalised.
        labels: In the frame of the crop.
        picture_to_crop: Affine map from pixels of the (mirrored, if so) picture to those of the crop.
    """

    pixels: Float[Tensor, "3 size size"]
    labels: PersonLabels
    picture_to_crop: Float[Tensor, "2 3"]


def draw_augmentation(config: AugmentationConfig, rng: np.random.Generator) -> Augmentation:
    """Random parameters of one example."""
    shift = np.clip(rng.normal(size=2), -1, 1) * config.shift
    scale = 1 + np.clip(rng.normal(), -1, 1) * config.scale
    rotation = np.clip(rng.normal(), -2, 2) * config.rotation_deg
    color = rng.uniform(1 - config.color, 1 + config.color, 3)
    return Augmentation(
        scale=float(scale),
        rotation_deg=float(rotation) if rng.random() < config.rotate else 0.0,
        mirrored=bool(rng.random() < config.mirror),
        color=(float(color[0]), float(color[1]), float(color[2])),
        shift=(float(shift[0]), float(shift[1])),
    )


def draw_example(
    picture: UInt8[np.ndarray, "height width 3"],
    center: tuple[float, float],
    side: float,
    labels: PersonLabels,
    config: AugmentationConfig,
    rng: np.random.Generator,
    crop_size: int = 256,
) -> HMR2Example:
    """An example with random augmentation, see `make_example`.

    Raises:
        InputError: The square is empty or not finite.
    """
    augmentation = draw_augmentation(config, rng)
    if rng.random() < config.extreme_crop:
        center, side = extreme_crop(center, side, labels.keypoints_2d, rng)
    return make_example(picture, center, side, labels, augmentation, crop_size)


def make_example(
    picture: UInt8[np.ndarray, "height width 3"],
    center: tuple[float, float],
    side: float,
    labels: PersonLabels,
    augmentation: Augmentation,
    crop_size: int = 256,
) -> HMR2Example:
    """Cut the square of a person out of an RGB picture and take the labels along.

    Bilinear, black outside, without a blur before shrinking, as the release trains.

    Args:
        center, side: Of the square around the person, pixels.

    Raises:
        InputError: The square is empty or not finite.
    """
    import cv2

    if not (side >= 1 and np.isfinite([*center, side]).all()):
        raise InputError(f"square of side {side} at {center}; needed: finite and at least one pixel")
    width = picture.shape[1]
    x, y = center[0] + augmentation.shift[0] * side, center[1] + augmentation.shift[1] * side
    if augmentation.mirrored:
        picture, x = np.ascontiguousarray(picture[:, ::-1]), width - 1 - x
        labels = mirror_labels(labels, width)
    affine = _picture_to_crop((x, y), side * augmentation.scale, augmentation.rotation_deg, crop_size)
    warped = cv2.warpAffine(picture, affine, (crop_size, crop_size), flags=cv2.INTER_LINEAR)
    gain = torch.tensor(augmentation.color)[:, None, None]
    pixels = (torch.from_numpy(warped).permute(2, 0, 1).float() * gain).clamp(0, 255)
    to_crop = torch.from_numpy(affine)
    points = labels.keypoints_2d[:, :2].double() @ to_crop[:, :2].T + to_crop[:, 2]
    labels = turn_labels(labels, augmentation.rotation_deg)
    in_crop = torch.cat([(points / crop_size - 0.5).float(), labels.keypoints_2d[:, 2:]], dim=1)
    return HMR2Example(
        pixels=normalize(pixels), labels=replace(labels, keypoints_2d=in_crop), picture_to_crop=to_crop
    )


def mirror_labels(labels: PersonLabels, width: int) -> PersonLabels:
    """Labels of the picture mirrored left to right: x becomes width - 1 - x, sides swap."""
    points, joints = labels.keypoints_2d.clone(), labels.keypoints_3d.clone()
    points[:, 0] = width - 1 - points[:, 0]
    joints[:, 0] = -joints[:, 0]
    sign = torch.tensor([1.0, -1.0, -1.0])
    body = labels.body_pose.unflatten(0, (-1, 3))[_BODY_FLIP] * sign
    return replace(
        labels,
        keypoints_2d=points[list(HMR2_44_FLIP)],
        keypoints_3d=joints[list(HMR2_44_FLIP)],
        global_orient=labels.global_orient * sign,
        body_pose=body.flatten(),
    )


def turn_labels(labels: PersonLabels, rotation_deg: float) -> PersonLabels:
    """3D labels when the crop's axes turn by an angle: they turn about z by its negative."""
    if rotation_deg == 0:
        return labels
    angle = torch.tensor([0.0, 0.0, -np.deg2rad(rotation_deg)], dtype=torch.float64)
    turn = axis_angle_to_rotmat(angle)
    joints = (labels.keypoints_3d[:, :3].double() @ turn.T).to(labels.keypoints_3d)
    orient = rotmat_to_axis_angle(turn @ axis_angle_to_rotmat(labels.global_orient.double()))
    return replace(
        labels,
        keypoints_3d=torch.cat([joints, labels.keypoints_3d[:, 3:]], dim=1),
        global_orient=orient.to(labels.global_orient),
    )


def _picture_to_crop(
    center: tuple[float, float], side: float, rotation_deg: float, crop_size: int
) -> Float[np.ndarray, "2 3"]:
    """Crop pixel = size / 2 + (size / side) R(-angle) (pixel - center).

    Found from three points in single precision, as the release does; far from the picture's corner that tells
    in the hundredths of a pixel.
    """
    import cv2

    angle, half = np.deg2rad(rotation_deg), crop_size / 2
    down, right = np.array([-np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), np.sin(angle)])
    arms = (float(np.float32(side / 2)) * np.stack([np.zeros(2), down, right])).astype(np.float32)
    source = np.array(center) + arms
    target = half + half * np.array([[0, 0], [0, 1], [1, 0]])
    return cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))

"""Training examples of METRO, FastMETRO and TORE (arXiv 2012.09760, released code): a crop and its labels.

What is done to an example is drawn first (`draw_metro_augmentation`) and then carried out (`metro_example`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.body.skeletons import SMPL_FLIP
from fasthmr.errors import InputError
from fasthmr.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle

METRO_24_FLIP = (*range(5, -1, -1), *range(11, 5, -1), *range(12, 19), 19, 21, 20, 23, 22)
"""Left and right among the 24 annotated joints of the body's files."""


@dataclass(frozen=True, kw_only=True)
class MetroLabels:
    """What is known of one person or hand.

    Attributes:
        joints_2d: x, y and confidence; pixels of the picture on the way in, -1 to 1 in the crop on the way
            out.
        joints_3d: x, y, z in metres, camera axes, and confidence.
        pose: Axis-angles, the root first.
    """

    joints_2d: Float[Tensor, "joints 3"]
    joints_3d: Float[Tensor, "joints 4"]
    pose: Float[Tensor, " pose"]


@dataclass(frozen=True, kw_only=True)
class MetroAugmentation:
    """What is done to one example; the defaults do nothing.

    Attributes:
        scale: Growth of the box.
        rotation_deg: Turn of the picture, counter-clockwise as seen.
        mirrored: Swap left and right; for bodies only.
        color: Gain of red, green and blue.
    """

    scale: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class MetroExample:
    """One example; `pixels` are RGB, 0 to 1, before the mean is taken off."""

    pixels: Float[Tensor, "3 size size"]
    labels: MetroLabels


def draw_metro_augmentation(rng: np.random.Generator, *, hand: bool = False) -> MetroAugmentation:
    """Random parameters as released: bodies turn by up to 60 degrees and are mirrored, hands by up to 180."""
    sigma = 90.0 if hand else 30.0
    rotation = float(np.clip(rng.normal() * sigma, -2 * sigma, 2 * sigma))
    gains = rng.uniform(0.6, 1.4, 3)
    return MetroAugmentation(
        scale=float(np.clip(1 + 0.25 * rng.normal(), 0.75, 1.25)),
        rotation_deg=0.0 if rng.random() < 0.6 else rotation,
        mirrored=not hand and bool(rng.random() < 0.5),
        color=(float(gains[0]), float(gains[1]), float(gains[2])),
    )


def metro_example(
    picture: UInt8[np.ndarray, "height width 3"],
    center: tuple[float, float],
    side: float,
    labels: MetroLabels,
    augmentation: MetroAugmentation,
    crop_size: int = 224,
) -> MetroExample:
    """Cut the square around a person out of an RGB picture and take the labels along.

    The square is rounded to whole pixels, and 2D joints to whole pixels of the crop, as released.

    Args:
        center, side: Of the square, pixels.

    Raises:
        InputError: The square is empty or not finite.
    """
    side = side * augmentation.scale
    if not (np.isfinite([*center, side]).all() and side >= 1):
        raise InputError(f"square of side {side} at {center}; needed: finite and at least one pixel")
    turn = augmentation.rotation_deg
    to_crop = _picture_to_crop(center, side, crop_size)
    crop = _cut(picture, to_crop, turn, crop_size)
    places = _whole(labels.joints_2d[:, :2].double().numpy(), _turned(to_crop, turn, crop_size))
    joints_2d = labels.joints_2d.float().clone()
    joints_2d[:, :2] = torch.from_numpy(2 * places / crop_size - 1).float()
    joints_3d, pose = _turn_labels(labels, turn)
    if augmentation.mirrored:
        crop = crop[:, ::-1]
        joints_2d, joints_3d, pose = _mirror_labels(joints_2d, joints_3d, pose)
    pixels = np.clip(crop * np.array(augmentation.color), 0, 255) / 255
    return MetroExample(
        pixels=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float(),
        labels=MetroLabels(joints_2d=joints_2d, joints_3d=joints_3d.float(), pose=pose.float()),
    )


def _picture_to_crop(center: tuple[float, float], side: float, size: int) -> Float[np.ndarray, "3 3"]:
    scale = size / side
    shift = [size * (0.5 - place / side) for place in center]
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def _turned(to_crop: np.ndarray, degrees: float, size: int) -> Float[np.ndarray, "3 3"]:
    """The same with a turn about the middle of the crop behind it."""
    if degrees == 0:
        return to_crop
    cos, sin, half = np.cos(np.deg2rad(-degrees)), np.sin(np.deg2rad(-degrees)), size / 2
    move = np.array([[1, 0, half], [0, 1, half], [0, 0, 1]])
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return move @ turn @ np.linalg.inv(move) @ to_crop


def _whole(points: Float[np.ndarray, "points 2"], matrix: np.ndarray) -> Float[np.ndarray, "points 2"]:
    """Points mapped and rounded towards zero, one up: pixels count from 1 in the release."""
    return np.trunc(points @ matrix[:2, :2].T + matrix[:2, 2]) + 1


def _cut(picture: np.ndarray, to_crop: np.ndarray, degrees: float, size: int) -> Float[np.ndarray, "s s 3"]:
    """The square, black outside the picture, turned within a larger one so that no corner is lost."""
    import cv2

    corners = _whole(np.array([[0.0, 0.0], [size, size]]), np.linalg.inv(to_crop)).astype(int) - 1
    (left, top), (right, bottom) = corners
    margin = 0
    if degrees:
        margin = int(np.hypot(right - left, bottom - top) / 2 - (bottom - top) / 2)
        left, top, right, bottom = left - margin, top - margin, right + margin, bottom + margin
    height, width = picture.shape[:2]
    square = np.zeros((max(bottom - top, 1), max(right - left, 1), 3), dtype=np.float64)
    x0, x1, y0, y1 = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
    if x0 < x1 and y0 < y1:
        square[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    if degrees:
        rows, columns = square.shape[:2]
        middle = ((columns - 1) / 2, (rows - 1) / 2)
        turn = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        square = cv2.warpAffine(square, turn, (columns, rows))
        square = square[margin : rows - margin, margin : columns - margin]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR)


def _turn_labels(labels: MetroLabels, degrees: float) -> tuple[Tensor, Tensor]:
    if degrees == 0:
        return labels.joints_3d, labels.pose
    axis = torch.tensor([0.0, 0.0, -np.deg2rad(degrees)], dtype=torch.float64)
    turn = axis_angle_to_rotmat(axis)
    points = labels.joints_3d.double()
    joints = torch.cat([points[:, :3] @ turn.T, points[:, 3:]], dim=1)
    pose = labels.pose.double()
    root = rotmat_to_axis_angle(turn @ axis_angle_to_rotmat(pose[:3]))
    return joints, torch.cat([root, pose[3:]])


def _mirror_labels(joints_2d: Tensor, joints_3d: Tensor, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    flip = list(METRO_24_FLIP)
    joints_2d = joints_2d[flip] * joints_2d.new_tensor([-1.0, 1.0, 1.0])
    joints_3d = joints_3d[flip] * joints_3d.new_tensor([-1.0, 1.0, 1.0, 1.0])
    parts = pose.unflatten(0, (-1, 3))[list(SMPL_FLIP)]
    return joints_2d, joints_3d, (parts * pose.new_tensor([1.0, -1.0, -1.0])).flatten()

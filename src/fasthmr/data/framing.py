"""Cameras for synthetic people: where the camera stands, what part it shows, where the picture ends.

The camera looks at the middle of the box of the (visible part of the) person. The square of HMR2's box
rule, arXiv 2305.20091 (box grown to 192:256, its longer side), fills 0.8 of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fasthmr.data.posing import Posed, turned

FILL = 0.8
"""Share of the picture's shorter side that the box square takes."""

PART_SHARE = 0.25
PARTS = ("full", "upper", "bust", "legs", "window", "cut")
_PART_WEIGHTS = np.array([0.42, 0.2, 0.05, 0.13, 0.2])
_PART_JOINTS = {
    "upper": (0, 3, 6, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23),
    "bust": (6, 9, 12, 13, 14, 15, 16, 17),
    "legs": (0, 1, 2, 4, 5, 7, 8, 10, 11),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Framed:
    """A person seen by a camera.

    Attributes:
        posed: The body in the camera frame (x right, y down, z forward, metres).
        R_pano_camera: Camera to level place frame.
        R_camera_world, t_camera_world: World (y up) to camera.
        K: Intrinsics; pixel centres lie at integers.
        box_xyxy: Tight box of the body, or of its visible part, in pixels.
        inside_xyxy: Part of the picture that the full photo covers; outside it is black.
        part: What is shown, one of `PARTS`.
    """

    posed: Posed
    R_pano_camera: Float[np.ndarray, "3 3"]
    R_camera_world: Float[np.ndarray, "3 3"]
    t_camera_world: Float[np.ndarray, "3"]
    K: Float[np.ndarray, "3 3"]
    box_xyxy: Float[np.ndarray, "4"]
    inside_xyxy: Float[np.ndarray, "4"]
    part: str


def rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about a coordinate axis (rad)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[a, a] = R[b, b] = np.cos(angle)
    R[b, a] = np.sin(angle)
    R[a, b] = -R[b, a]
    return R


def sample_camera(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Camera to level place: any heading, mostly level, pitch -35..25 degrees (down is negative)."""
    kind = rng.random()
    if kind < 0.65:
        pitch = rng.normal(-2.0, 5.0)
    else:
        pitch = rng.uniform(-35.0, 25.0) if kind < 0.85 else rng.uniform(-18.0, 4.0)
    roll = rng.normal(0.0, 2.0) if rng.random() < 0.85 else rng.uniform(-20.0, 20.0)
    yaw = rng.uniform(0, 2 * np.pi)
    pitch, roll = np.deg2rad([np.clip(pitch, -35.0, 25.0), roll])
    return rotation(1, yaw) @ rotation(0, pitch) @ rotation(2, roll)


def sample_distance(part: str, rng: np.random.Generator) -> float:
    """Distance of the person in metres: 2-15, few closer; nearer for views of a part."""
    if part != "full":
        return float(np.exp(rng.uniform(np.log(1.3), np.log(7.0))))
    if rng.random() < 0.05:
        return float(rng.uniform(1.6, 2.2))
    return float(np.exp(rng.uniform(np.log(2.2), np.log(15.0))))


def frame_person(
    posed_world: Posed, surface_joint: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> Framed:
    """Draw a camera and a part of the body, and frame it in a picture of (height, width)."""
    part = "full"
    if rng.random() < PART_SHARE:
        part = PARTS[1 + int(rng.choice(5, p=_PART_WEIGHTS))]
    R_pano_camera = sample_camera(rng)
    distance = sample_distance(part, rng)
    R = R_pano_camera.T @ np.diag([1.0, -1.0, -1.0])
    extent = posed_world.surface @ R.T
    centre = (extent.min(axis=0) + extent.max(axis=0)) / 2
    posed = turned(posed_world, R, np.array([0, 0, distance]) - centre)
    t = np.array([0, 0, distance]) - centre
    shown, cut_side = _shown_points(posed, surface_joint, part, rng)
    for _ in range(2):  # the box moves a little when the camera turns, so turn twice
        box = _tangent_box(posed.outline()[shown])
        aim = _turn_to_axis(np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 1.0]))
        posed = turned(posed, aim, np.zeros(3))
        R, t, R_pano_camera = aim @ R, aim @ t, R_pano_camera @ aim.T
    box = _tangent_box(posed.outline()[shown])
    height, width = size
    w, h = box[2] - box[0], box[3] - box[1]
    side = max(h, w * 256 / 192)
    focal = FILL * min(size) / side
    cx, cy = width / 2 - focal * (box[0] + box[2]) / 2, height / 2 - focal * (box[1] + box[3]) / 2
    K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])
    box_px = box * focal + np.array([cx, cy, cx, cy])
    return Framed(
        posed=posed,
        R_pano_camera=R_pano_camera,
        R_camera_world=R,
        t_camera_world=t,
        K=K,
        box_xyxy=box_px,
        inside_xyxy=_picture_edge(box_px, size, part, cut_side, rng),
        part=part,
    )


def project(points: Float[np.ndarray, "*n 3"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "*n 2"]:
    """Pixels of points in the camera frame; points behind the camera give values far outside."""
    z = np.maximum(points[..., 2:], 1e-3)
    return points[..., :2] / z * np.array([K[0, 0], K[1, 1]]) + K[:2, 2]


def _tangent_box(points: np.ndarray) -> Float[np.ndarray, "4"]:
    xy = points[:, :2] / np.maximum(points[:, 2:], 0.2)
    return np.concatenate([xy.min(axis=0), xy.max(axis=0)])


def _shown_points(
    posed: Posed, surface_joint: np.ndarray, part: str, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Which framing points are in view, and the side (0 left, 1 top, 2 right, 3 bottom) that is cut off."""
    joint = np.concatenate([surface_joint, np.arange(24), [15]])
    if part == "full":
        return np.ones(len(joint), dtype=bool), -1
    if part in _PART_JOINTS:
        return np.isin(joint, _PART_JOINTS[part]), 3 if part != "legs" else 1
    points = posed.outline()
    xy = points[:, :2] / np.maximum(points[:, 2:], 0.2)
    box = _tangent_box(points)
    if part == "cut":
        side = int(rng.choice(4, p=[0.2, 0.1, 0.2, 0.5]))
        axis, share = side % 2, rng.uniform(0.1, 0.45)
        length = box[2 + axis] - box[axis]
        limit = box[axis] + share * length if side < 2 else box[2 + axis] - share * length
        shown = xy[:, axis] > limit if side < 2 else xy[:, axis] < limit
    else:
        side = -1
        length = max(box[2] - box[0], box[3] - box[1]) * rng.uniform(0.4, 0.8)
        middle = xy[int(rng.integers(len(xy)))]
        shown = (np.abs(xy - middle) < length / 2).all(axis=1)
    return (shown, side) if shown.sum() >= 24 else (np.ones(len(joint), dtype=bool), -1)


def _picture_edge(
    box: np.ndarray, size: tuple[int, int], part: str, side: int, rng: np.random.Generator
) -> Float[np.ndarray, "4"]:
    """The part of the crop that lies inside the photo it was cut from."""
    inside = np.array([0.0, 0.0, size[1], size[0]])
    odds = {"full": 0.0, "window": 0.0, "cut": 1.0}.get(part, 0.6)
    draw, margin = rng.random(), rng.uniform(0.0, 0.04) * min(size)
    if side >= 0 and draw < odds:
        inside[side] = box[side] - margin if side < 2 else box[side] + margin
    elif part == "full" and draw < 0.12:
        # The photo ends somewhere between the person and the border of the crop.
        side = int(rng.integers(4))
        inside[side] += rng.uniform(0, 1) * (box[side] - inside[side])
    return inside


def _turn_to_axis(ray: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes a ray to +z."""
    ray = ray / np.linalg.norm(ray)
    v, c = np.array([ray[1], -ray[0], 0.0]), ray[2]
    cross = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + c)

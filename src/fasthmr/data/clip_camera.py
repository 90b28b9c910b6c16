"""How a synthetic clip is filmed: where the camera stands, turns and goes, and what a tracker makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from fasthmr.data.clip_motion import smooth
from fasthmr.data.framing import project, rotation
from fasthmr.data.posing import Posed

CameraKind = Literal["still", "pan", "follow"]
_KINDS: tuple[CameraKind, ...] = ("still", "pan", "follow")
_KIND_SHARES = np.array([0.45, 0.3, 0.25])
_PICTURES = ((1280, 720), (1920, 1080), (720, 1280), (640, 480))
_PICTURE_SHARES = np.array([0.55, 0.15, 0.2, 0.1])
_HAND_HELD = 0.45
_CLOSE_UP = 0.15
_NEAREST, _FARTHEST = 1.3, 16.0
_LEAST_SEEN, _LEAST_SEEN_CLOSE = 0.7, 0.3
_WIDEST_PAN = np.deg2rad(45.0)
_DOWN_AND_BACK = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPath:
    """A camera in every frame; the world has y up and its floor at y = 0.

    Attributes:
        kind: Fixed, turning after the person from one place, or going along with them.
        hand_held: Whether it sways.
        R_camera_world, t_camera_world: World to camera (OpenCV axes).
        K: Intrinsics of the full picture.
        image_size: Its width and height in pixels.
    """

    kind: CameraKind
    hand_held: bool
    R_camera_world: Float[np.ndarray, "frames 3 3"]
    t_camera_world: Float[np.ndarray, "frames 3"]
    K: Float[np.ndarray, "3 3"]
    image_size: tuple[int, int]

    @property
    def moves(self) -> bool:
        return self.hand_held or self.kind != "still"

    @cached_property
    def centers(self) -> Float[np.ndarray, "frames 3"]:
        """Where the camera is in the world."""
        return -(self.R_camera_world.swapaxes(1, 2) @ self.t_camera_world[..., None])[..., 0]

    @cached_property
    def R_pano_camera(self) -> Float[np.ndarray, "frames 3 3"]:
        """Camera to the level frame of places (x right, y down, z ahead)."""
        return _DOWN_AND_BACK @ self.R_camera_world.swapaxes(1, 2)

    def boxes(self, outline: Float[np.ndarray, "frames n 3"]) -> Float[np.ndarray, "frames 4"]:
        """Tight boxes of world points in pixels, not cut at the picture's edges; NaN if one is behind."""
        points = outline @ self.R_camera_world.swapaxes(1, 2) + self.t_camera_world[:, None]
        xy = project(points, self.K)
        boxes = np.concatenate([xy.min(axis=1), xy.max(axis=1)], axis=1)
        boxes[points[..., 2].min(axis=1) < 0.4] = np.nan
        return boxes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shot:
    """What stays fixed while distance and kind are tried out."""

    middle: Float[np.ndarray, "frames 3"]
    azimuth: float
    height: float
    aside: Float[np.ndarray, "2"]
    roll: float
    sway: Float[np.ndarray, "frames 3"]
    shift: Float[np.ndarray, "frames 3"]
    wander: Float[np.ndarray, "frames 3"]


def plan_camera(posed: Posed, rng: np.random.Generator) -> CameraPath:
    """Draw a camera for a body that moves through the world, so that it stays in view.

    A fixed camera that would lose the person steps back, then turns, then goes along.
    """
    outline = posed.outline()
    low, high = outline.min(axis=1), outline.max(axis=1)
    frames = len(low)
    size = _PICTURES[int(rng.choice(len(_PICTURES), p=_PICTURE_SHARES))]
    focal = max(size) / 2 / np.tan(np.deg2rad(rng.uniform(38.0, 80.0)) / 2)
    K = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1.0]])
    first = int(rng.choice(len(_KINDS), p=_KIND_SHARES))
    close, hand_held = rng.random() < _CLOSE_UP, bool(rng.random() < _HAND_HELD)
    extent = float(np.median((high - low).max(axis=1)))
    fill = rng.uniform(1.1, 1.9) if close else np.exp(rng.uniform(np.log(0.28), np.log(0.9)))
    distance = float(np.clip(focal * extent / (fill * size[1]), _NEAREST, _FARTHEST))
    middle = (low + high) / 2
    if close:  # towards the head, as portraits are taken
        middle = middle + np.array([0, 0.3, 0]) * (high - low)
    quiet = np.deg2rad(rng.uniform(0.1, 0.7)) * hand_held
    shot = _Shot(
        middle=middle,
        azimuth=rng.uniform(0, 2 * np.pi),
        height=_height(rng),
        aside=rng.uniform(-1, 1, size=2) * np.array([0.1, 0.04]) * (0.5 if close else 1.0) * size / focal,
        roll=np.deg2rad(rng.normal(0, 1.5)),
        sway=quiet * _drift(frames, rng.uniform(4, 10), rng),
        shift=rng.uniform(0.004, 0.02) * hand_held * _drift(frames, rng.uniform(6, 14), rng),
        wander=0.02 * distance * _drift(frames, 18.0, rng),
    )
    least = _LEAST_SEEN_CLOSE if close else _LEAST_SEEN
    path = None
    for kind in _KINDS[first:]:
        for farther in (1.0, 1.15, 1.35, 1.6, 2.0, 2.6):
            R, t = _placed(shot, kind, min(distance * farther, _FARTHEST))
            path = CameraPath(
                kind=kind,
                hand_held=hand_held,
                R_camera_world=R,
                t_camera_world=t,
                K=K,
                image_size=size,
            )
            if seen_share(path.boxes(outline), size).min() >= least and _steady(path, kind):
                return path
    assert path is not None
    return _zoomed_out(path, outline)


def _height(rng: np.random.Generator) -> float:
    """Height of the lens above the floor: eye level, from above, or from below."""
    kind = rng.random()
    if kind < 0.72:
        return float(rng.uniform(1.0, 1.8))
    return float(rng.uniform(1.8, 3.8)) if kind < 0.9 else float(rng.uniform(0.35, 1.0))


def _drift(
    frames: int, sigma: float, rng: np.random.Generator, columns: int = 3
) -> Float[np.ndarray, "frames columns"]:
    """Smooth noise of unit standard deviation."""
    around = int(4 * sigma)
    noise = smooth(rng.normal(size=(frames + 2 * around, columns)), sigma)[around : around + frames]
    return noise * np.sqrt(2 * sigma * np.sqrt(np.pi))


def _placed(shot: _Shot, kind: CameraKind, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """World to camera in every frame."""
    path = shot.middle
    centre = (path.min(axis=0) + path.max(axis=0)) / 2
    away = distance * np.array([np.sin(shot.azimuth), 0, np.cos(shot.azimuth)])
    ahead = np.array([1.0, 0, 1.0])
    if kind == "still":
        stand, aim = np.broadcast_to(centre * ahead + away, path.shape), np.broadcast_to(centre, path.shape)
    elif kind == "pan":
        stand, aim = np.broadcast_to(centre * ahead + away, path.shape), smooth(path, 9.0) + shot.wander
    else:
        stand, aim = smooth(path, 18.0) * ahead + away, smooth(path, 12.0) + shot.wander
    stand = stand + np.array([0, shot.height, 0]) + shot.shift
    forward = aim - stand
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    steady = rotation(2, shot.roll) @ rotation(1, shot.aside[0]) @ rotation(0, shot.aside[1])
    R = _small_rotations(shot.sway) @ steady @ R
    return R, -(R @ stand[..., None])[..., 0]


def _small_rotations(vectors: Float[np.ndarray, "frames 3"]) -> Float[np.ndarray, "frames 3 3"]:
    x, y, z = vectors.T
    return np.stack(
        [rotation(0, a) @ rotation(1, b) @ rotation(2, c) for a, b, c in zip(x, y, z, strict=True)]
    )


def seen_share(
    boxes: Float[np.ndarray, "frames 4"], image_size: tuple[int, int]
) -> Float[np.ndarray, "frames"]:
    """Share of each box that lies inside the picture; 0 where there is none."""
    cut = clipped(boxes, image_size)
    share = np.prod(cut[:, 2:] - cut[:, :2], axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.nan_to_num(share)


def clipped(
    boxes: Float[np.ndarray, "frames 4"], image_size: tuple[int, int]
) -> Float[np.ndarray, "frames 4"]:
    """Boxes cut at the picture's edges."""
    return np.clip(boxes, 0.0, np.array([*image_size, *image_size], dtype=np.float64))


def _steady(path: CameraPath, kind: CameraKind) -> bool:
    """Whether a turning camera keeps to a range that one flat background covers."""
    if kind != "pan":
        return True
    forward = path.R_camera_world[:, 2] * np.array([1.0, 0, 1.0])
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    mean = forward.mean(axis=0)
    return bool((forward @ (mean / np.linalg.norm(mean))).min() > np.cos(_WIDEST_PAN))


def _zoomed_out(path: CameraPath, outline: Float[np.ndarray, "frames n 3"]) -> CameraPath:
    """The same camera with a shorter focal length, so that more is in view."""
    for _ in range(12):
        if seen_share(path.boxes(outline), path.image_size).min() >= _LEAST_SEEN_CLOSE:
            break
        path = replace(path, K=path.K * np.array([[0.85, 1, 1], [1, 0.85, 1], [1, 1, 1]]))
    return path


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedBoxes:
    """What a tracker reports for a person in every frame.

    Attributes:
        boxes_xyxy: Smoothed boxes in pixels of the full picture.
        scores: Confidence of the detector, 0 in frames it did not look at.
    """

    boxes_xyxy: Float[np.ndarray, "frames 4"]
    scores: Float[np.ndarray, "frames"]


def track_boxes(boxes: Float[np.ndarray, "frames 4"], rng: np.random.Generator) -> TrackedBoxes:
    """Boxes as an imperfect detector and a tracker see them.

    The detector is off by a constant, a drifting and an independent part, now and then by much, and looks at
    every n-th frame; an alpha-beta filter (a Kalman filter of constant velocity in its steady state) follows.
    """
    frames = len(boxes)
    size = boxes[:, 2:] - boxes[:, :2]
    state = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, np.log(np.maximum(size, 4.0))], axis=1)
    spread = np.array([0.01, 0.01, 0.025, 0.018]) * rng.uniform(0.4, 1.6)
    error = 0.8 * spread * rng.normal(size=4)
    error = error + 0.7 * spread * (_drift(frames, 10.0, rng, 4) + rng.normal(size=(frames, 4)))
    error = np.where(rng.random((frames, 1)) < 0.015, 5 * error, error)
    scale = np.exp(state[:, 2:]).max(axis=1, keepdims=True)
    seen = state + error * np.concatenate([scale, scale, np.ones((frames, 2))], axis=1)
    every = int(rng.choice([1, 2, 3, 5], p=[0.4, 0.25, 0.2, 0.15]))
    looked: Bool[np.ndarray, "frames"] = np.arange(frames) % every == 0
    alpha = np.array([0.7, 0.7, 0.45, 0.45]) * rng.uniform(0.8, 1.3)
    beta = alpha**2 / (2 - alpha)
    now, velocity, tracked = seen[0], np.zeros(4), []
    for frame in range(frames):
        if frame:
            now = now + velocity * np.array([1.0, 1.0, 0.5, 0.5])
        if looked[frame]:
            residual = seen[frame] - now
            now, velocity = now + alpha * residual, velocity + beta * residual / every
        tracked.append(now)
    center, half = np.array(tracked)[:, :2], np.exp(np.array(tracked)[:, 2:]) / 2
    scores = np.where(looked, np.clip(rng.normal(0.88, 0.06, size=frames), 0.3, 0.99), 0.0)
    return TrackedBoxes(boxes_xyxy=np.concatenate([center - half, center + half], axis=1), scores=scores)

"""Continuous movement for synthetic clips: stretches of recorded motion, joined, scaled and set on a floor.

Recorded roots belong to other bodies. Each stretch is scaled so that feet on the floor stay where they are,
and the floor follows the lowest point of the body, so that nobody floats or sinks but jumps remain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.body.skeletons import SMPL_FLIP
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.posing import Posed, SyntheticBody, turned
from fasthmr.geometry.rotations import axis_angle_to_rotmat, quat_wxyz_to_rotmat, rotmat_to_quat_wxyz

FRAME_RATE = 30.0
"""Frames per second of all clips."""

_OVERLAP = 12
_CANDIDATES = 40
_SHORTEST = 2 * _OVERLAP
_FEET, _WRISTS = (10, 11), [20, 21]
_STILL_FOOT = 0.004
_SCALES = (0.7, 1.35)
_FLOOR_WINDOW, _FLOOR_SMOOTHING = 20, 8.0
_RECORDING_NOISE = 0.7
"""Standard deviation (frames) of the smoothing that hides the rounding of stored rotations."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Movement:
    """A stretch of movement.

    Attributes:
        quats: Rotation of the root in the world (y up), then of each joint relative to its parent.
        root: Place of the pelvis in metres.
        action: Action class of the recording it begins with.
    """

    quats: Float[np.ndarray, "frames 24 4"]
    root: Float[np.ndarray, "frames 3"]
    action: str

    def __len__(self) -> int:
        return len(self.root)

    def posed(self, body: SyntheticBody, betas: Float[np.ndarray, "betas"]) -> Posed:
        """The body in every frame, pelvis at `root`."""
        posed = body.pose_rotmats(betas, quat_wxyz_to_rotmat(torch.from_numpy(self.quats)).numpy())
        level = np.broadcast_to(np.eye(3), (len(self), 3, 3))
        return turned(posed, level, self.root - posed.joints[:, 0])


def smooth(values: Float[np.ndarray, "frames *rest"], sigma: float) -> Float[np.ndarray, "frames *rest"]:
    """Gaussian smoothing along time (frames), the ends repeated."""
    radius = int(np.ceil(3.5 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.concatenate([values[:1]] * radius + [values] + [values[-1:]] * radius)
    return sum((share * padded[k : k + len(values)] for k, share in enumerate(kernel)), np.zeros_like(values))


def sample_movement(
    library: MotionLibrary, body: SyntheticBody, betas: np.ndarray, frames: int, rng: np.random.Generator
) -> Movement:
    """Draw `frames` frames of movement of one body, standing on the floor y = 0.

    A recording that is too short is followed by another that begins nearly as it ends, cross-faded.

    Raises:
        ValueError: The library has no roots.
    """
    if library.roots is None:
        raise ValueError("these motion files hold no '<clip>/root': clips need the way of the pelvis")
    clip = _long_clip(library, rng)
    length = _length(library, clip)
    start = int(rng.integers(max(length - frames, 0) + 1))
    movement = _scaled(_stretch(library, clip, start, min(length - start, frames), rng), body, betas)
    while len(movement) < frames:
        following = _continuation(library, movement, frames - len(movement) + _OVERLAP, rng)
        movement = _joined(movement, _scaled(following, body, betas))
    if rng.random() < 0.5:
        movement = Movement(
            quats=movement.quats[:, list(SMPL_FLIP)] * np.array([1.0, 1.0, -1.0, -1.0]),
            root=movement.root * np.array([-1.0, 1.0, 1.0]),
            action=movement.action,
        )
    quats = smooth(_continuous(movement.quats), _RECORDING_NOISE)
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    root = smooth(movement.root, _RECORDING_NOISE)
    return _grounded(Movement(quats=quats, root=root, action=movement.action), body, betas)


def _long_clip(library: MotionLibrary, rng: np.random.Generator) -> int:
    for _ in range(200):
        clip = library.draw_clip(rng)
        if _length(library, clip) >= _SHORTEST:
            return clip
    return max(range(len(library.actions)), key=lambda clip: _length(library, clip))


def _length(library: MotionLibrary, clip: int) -> int:
    """Frames of a recording at the clips' rate."""
    recorded = int(library.starts[clip + 1] - library.starts[clip])
    return int((recorded - 1) * FRAME_RATE / library.rates[clip]) + 1


def _stretch(
    library: MotionLibrary, clip: int, start: int, frames: int, rng: np.random.Generator
) -> Movement:
    """Frames of a recording at the clips' rate; wrists that were not recorded come from another."""
    assert library.roots is not None
    first, last = int(library.starts[clip]), int(library.starts[clip + 1]) - 1
    time = first + (start + np.arange(frames)) * library.rates[clip] / FRAME_RATE
    quats = _read(library, time, last)
    below = np.minimum(np.floor(time).astype(int), max(last - 1, first))
    part = (time - below)[:, None]
    above = np.minimum(below + 1, last)
    root = (1 - part) * library.roots[below] + part * library.roots[above]
    trusted = np.flatnonzero(library.trusted_wrists)
    if not library.trusted_wrists[clip] and len(trusted):
        other = int(rng.choice(trusted))
        length = int(library.starts[other + 1] - library.starts[other])
        step = library.rates[other] / FRAME_RATE
        to_and_fro = np.abs((np.arange(frames) * step + rng.uniform(0, length)) % (2 * length) - length)
        there = int(library.starts[other]) + np.minimum(to_and_fro, length - 1)
        quats[:, _WRISTS] = _read(library, there, int(library.starts[other + 1]) - 1)[:, _WRISTS]
    return Movement(quats=quats, root=root, action=library.actions[clip])


def _read(library: MotionLibrary, time: np.ndarray, last: int) -> Float[np.ndarray, "frames 24 4"]:
    """Rotations at fractional frames of the library, not beyond frame `last`."""
    below = np.floor(time).astype(int)
    low, high = (
        rotmat_to_quat_wxyz(
            axis_angle_to_rotmat(torch.from_numpy(library.poses[frame].astype(np.float64)))
        ).numpy()
        for frame in (below, np.minimum(below + 1, last))
    )
    return _mixed(low, high, (time - below)[:, None, None])


def _mixed(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Between two rotations, by normalised linear interpolation."""
    sign = np.where((a * b).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    mixed = (1 - share) * a + share * sign * b
    return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)


def _continuous(quats: np.ndarray) -> np.ndarray:
    """The same rotations without jumps of sign along time."""
    flips = np.where((quats[1:] * quats[:-1]).sum(axis=-1) < 0, -1.0, 1.0)
    signs = np.concatenate([np.ones_like(flips[:1]), np.cumprod(flips, axis=0)])
    return quats * signs[..., None]


def _scaled(movement: Movement, body: SyntheticBody, betas: np.ndarray) -> Movement:
    """Scale the way of the root so that the lower foot stands still, and set the stretch on the floor.

    The scale is the robust least-squares solution of scale * root step + foot step = 0 (re-weighted by
    1 / (squared residual + 4 mm squared), since the lower foot is not always at rest).
    """
    posed = movement.posed(body, betas)
    feet = posed.joints[:, list(_FEET)] - posed.joints[:, :1]
    lower = feet[..., 1].argmin(axis=1)[:-1]
    foot_step = np.diff(feet, axis=0)[np.arange(len(lower)), lower][:, [0, 2]]
    root_step = np.diff(movement.root, axis=0)[:, [0, 2]]
    scale = 1.0
    for _ in range(8):
        residual = np.linalg.norm(scale * root_step + foot_step, axis=1)
        weight = 1 / (residual**2 + _STILL_FOOT**2)
        # A prior of 1 decides where the root hardly moves.
        prior = 1e-4 * weight.sum()
        against = (weight * (root_step * foot_step).sum(axis=1)).sum()
        scale = (prior - against) / (prior + (weight * (root_step**2).sum(axis=1)).sum())
        scale = float(np.clip(scale, *_SCALES))
    root = movement.root * scale
    lowest = (posed.surface[..., 1] - posed.joints[:, :1, 1]).min(axis=1) + root[:, 1]
    root[:, 1] -= np.quantile(lowest, 0.1)
    return Movement(quats=movement.quats, root=root, action=movement.action)


def _continuation(
    library: MotionLibrary, before: Movement, frames: int, rng: np.random.Generator
) -> Movement:
    """Of several stretches drawn, a long one that begins much as `before` ends."""
    ends = before.quats[[-_OVERLAP, -1]]
    best: tuple[float, int, int, int] | None = None
    for _ in range(_CANDIDATES):
        clip = _long_clip(library, rng)
        length = _length(library, clip)
        start = int(rng.integers(max(length - max(_SHORTEST, min(frames, length // 2)), 0) + 1))
        first = int(library.starts[clip])
        time = first + (start + np.array([0, min(_OVERLAP, length - start) - 1])) * (
            library.rates[clip] / FRAME_RATE
        )
        begins = _read(library, time, int(library.starts[clip + 1]) - 1)
        begins[:, 0] = _product(_turn(ends[0, 0], begins[0, 0]), begins[:, 0])
        lasts = min(length - start, frames)
        # A longer stretch may fit less well, since fewer joins are needed then.
        apart = float((1 - np.abs((begins * ends).sum(axis=-1)[:, :20])).sum()) / np.sqrt(lasts)
        if best is None or apart < best[0]:
            best = apart, clip, start, lasts
    assert best is not None
    return _stretch(library, *best[1:], rng)


def _turn(to: np.ndarray, from_: np.ndarray) -> Float[np.ndarray, "4"]:
    """The rotation about y that brings one orientation closest to another."""
    product = _product(to, from_ * np.array([1.0, -1.0, -1.0, -1.0]))
    turn = np.array([product[0], 0.0, product[2], 0.0])
    length = np.linalg.norm(turn)
    return turn / length if length > 1e-6 else np.array([1.0, 0.0, 0.0, 0.0])


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of quaternions (w, x, y, z)."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(axis=-1, keepdims=True)
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w, v], axis=-1)


def _joined(before: Movement, after: Movement) -> Movement:
    """Turn and move a stretch to where another ends, and cross-fade."""
    over = min(_OVERLAP, len(after) - 1, len(before))
    turn = _turn(before.quats[-over, 0], after.quats[0, 0])
    quats = after.quats.copy()
    quats[:, 0] = _product(turn, quats[:, 0])
    R = quat_wxyz_to_rotmat(torch.from_numpy(turn)).numpy()
    root = after.root @ R.T
    middle = over // 2
    root[:, [0, 2]] += before.root[len(before) - over + middle, [0, 2]] - root[middle, [0, 2]]
    ramp = (np.arange(over) + 1) / (over + 1)
    share = (ramp**2 * (3 - 2 * ramp))[:, None]
    return Movement(
        quats=np.concatenate(
            [before.quats[:-over], _mixed(before.quats[-over:], quats[:over], share[..., None]), quats[over:]]
        ),
        root=np.concatenate(
            [before.root[:-over], (1 - share) * before.root[-over:] + share * root[:over], root[over:]]
        ),
        action=before.action,
    )


def _grounded(movement: Movement, body: SyntheticBody, betas: np.ndarray) -> Movement:
    """Lower the movement onto y = 0 by the smoothed low quartile of its lowest point over about a second.

    The minimum would be the deepest dip of a toe, with the body floating for the rest of the time.
    """
    lowest = movement.posed(body, betas).surface[..., 1].min(axis=1)
    window = np.concatenate([[lowest[0]] * _FLOOR_WINDOW, lowest, [lowest[-1]] * _FLOOR_WINDOW])
    windows = np.lib.stride_tricks.sliding_window_view(window, 2 * _FLOOR_WINDOW + 1)
    floor = np.quantile(windows, 0.25, axis=1)
    root = movement.root.copy()
    root[:, 1] -= smooth(floor, _FLOOR_SMOOTHING)
    return Movement(quats=movement.quats, root=root, action=movement.action)

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
from fasthmr.data.posing import Posed, SyntheticBody, turned
from fasthmr.data.recordings import FRAME_RATE, Recordings, Run
from fasthmr.geometry.interpolation import mix_quaternions, smooth_quaternions, smooth_values
from fasthmr.geometry.quaternions import heading_turn, quat_multiply
from fasthmr.geometry.rotations import quat_wxyz_to_rotmat

_OVERLAP = 12
_CANDIDATES = 40
_SHORTEST = 2 * _OVERLAP
_FEET = (10, 11)
_COMPARED = 20
_IMPORTANCE = np.array([4.0, *np.ones(_COMPARED - 1)])
_TOO_FAR = 1.5
_SPARSE = 1.5
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
    return smooth_values(torch.from_numpy(values), sigma).numpy()


def _smoothed(quats: Float[np.ndarray, "frames 24 4"], sigma: float) -> Float[np.ndarray, "frames 24 4"]:
    """Gaussian smoothing of rotations along time (frames)."""
    return smooth_quaternions(torch.from_numpy(quats), sigma).numpy()


def sample_movement(
    recordings: Recordings, body: SyntheticBody, betas: np.ndarray, frames: int, rng: np.random.Generator
) -> Movement:
    """Draw `frames` frames of movement of one body, standing on the floor y = 0.

    A recording that is too short is followed by another that begins nearly as it ends, cross-faded.
    """
    run = recordings.draw(_SHORTEST, rng)
    length = recordings.length(run)
    start = int(rng.integers(max(length - frames, 0) + 1))
    movement = _scaled(_stretch(recordings, run, start, min(length - start, frames), rng), body, betas)
    while len(movement) < frames:
        following = _continuation(recordings, movement, frames - len(movement) + _OVERLAP, rng)
        movement = _joined(movement, _scaled(following, body, betas))
    if rng.random() < 0.5:
        movement = Movement(
            quats=movement.quats[:, list(SMPL_FLIP)] * np.array([1.0, 1.0, -1.0, -1.0]),
            root=movement.root * np.array([-1.0, 1.0, 1.0]),
            action=movement.action,
        )
    quats = _smoothed(movement.quats, _RECORDING_NOISE)
    root = smooth(movement.root, _RECORDING_NOISE)
    return _grounded(Movement(quats=quats, root=root, action=movement.action), body, betas)


def _stretch(recordings: Recordings, run: Run, start: int, frames: int, rng: np.random.Generator) -> Movement:
    """Frames of a run; those of few recorded frames per second are rounded off between these."""
    quats, root = recordings.read(run, start + np.arange(frames), rng)
    between = FRAME_RATE / float(recordings.library.rates[run.clip])
    if between > _SPARSE:
        quats = _smoothed(quats, between / 2)
        root = smooth(root, between / 2)
    return Movement(quats=quats, root=root, action=recordings.action(run))


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
    recordings: Recordings, before: Movement, frames: int, rng: np.random.Generator
) -> Movement:
    """Of several stretches drawn, a long one that begins much as `before` ends.

    Where none does (nobody rises from the floor at once), what came before runs backwards.
    """
    ends = before.quats[[-_OVERLAP, -1], :_COMPARED]
    best: tuple[float, float, Run, int, int] | None = None
    for _ in range(_CANDIDATES):
        run = recordings.draw(_SHORTEST, rng)
        length = recordings.length(run)
        start = int(rng.integers(length - max(_SHORTEST, min(frames, length // 2)) + 1))
        begins, _ = recordings.read(run, start + np.array([0, _OVERLAP - 1]), rng)
        begins[:, 0] = _product(_turn(ends[0, 0], begins[0, 0]), begins[:, 0])
        lasts = min(length - start, frames)
        apart = _apart(begins[:, :_COMPARED], ends)
        # A longer stretch may fit less well, since fewer joins are needed then.
        if best is None or apart / np.sqrt(lasts) < best[0]:
            best = apart / np.sqrt(lasts), apart, run, start, lasts
    assert best is not None
    if best[1] > max(_TOO_FAR, _apart(ends[::-1], ends)):
        back = np.arange(len(before) - 1, max(len(before) - 1 - frames, -1), -1)
        return Movement(quats=before.quats[back], root=before.root[back], action=before.action)
    return _stretch(recordings, *best[2:], rng)


def _apart(begins: np.ndarray, ends: np.ndarray) -> float:
    """How different the poses of some frames are."""
    return float(((1 - np.abs((begins * ends).sum(axis=-1))) @ _IMPORTANCE).sum())


def _turn(to: np.ndarray, from_: np.ndarray) -> Float[np.ndarray, "4"]:
    """The rotation about y that brings one orientation closest to another."""
    return heading_turn(torch.from_numpy(to), torch.from_numpy(from_)).numpy()


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return quat_multiply(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _mixed(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> Float[np.ndarray, "frames 24 4"]:
    parts = (torch.from_numpy(part) for part in (a, b, share[..., None]))
    return mix_quaternions(*parts).numpy()


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
            [before.quats[:-over], _mixed(before.quats[-over:], quats[:over], share), quats[over:]]
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

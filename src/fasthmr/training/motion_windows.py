"""Windows of recorded motion to train motion models on: joined, warped, mirrored, filmed from anywhere.

Rotations alone: what clips with pictures need beside them (a way of the root, a floor) is in
`fasthmr.data.clip_motion`, which joins recordings in the same manner.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.skeletons import SMPL_FLIP
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.recordings import FRAME_RATE, Recordings, Run
from fasthmr.geometry.interpolation import continuous_quaternions, mix_quaternions, smooth_quaternions
from fasthmr.geometry.quaternions import heading_turn, quat_multiply
from fasthmr.geometry.rotations import axis_angle_to_rotmat, quat_wxyz_to_rotmat
from fasthmr.temporal.representation import SPEEDS, sample_frames
from fasthmr.training.lifter import camera_rotations
from fasthmr.types import BodyParams

_FADE = 12
_SHORTEST = 2 * _FADE
_CANDIDATES = 40
_COMPARED = 20
_WRISTS = [20, 21]
_ROUNDING = 0.7
"""Standard deviation (frames) of the smoothing that hides the rounding of stored rotations."""

_PAN_SHARE, _PAN_RAD, _PAN_SECONDS = 0.45, 0.5, (3.0, 12.0)
_SWAY_SHARE, _SWAY_RAD, _SWAY_SECONDS = 0.45, 0.012, (0.7, 3.0)
_WAVES = 4
_BETA_LIMIT = 2.5


class MotionWindows:
    """Draws windows from the recordings of a library.

    Args:
        frames: Length of a window.
    """

    def __init__(self, library: MotionLibrary, frames: int) -> None:
        self.frames = frames
        self._recordings = Recordings(library)
        runs = [run for clip in range(len(library.rates)) for run in self._recordings.runs(clip)]
        self._numbers = {run: number for number, run in enumerate(runs)}
        self._lengths = np.array([self._recordings.length(run) for run in runs])
        if self._lengths.max(initial=0) < _SHORTEST:
            raise ValueError(f"no recording is {_SHORTEST} frames long")
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._quats = torch.cat([self._read(run) for run in runs])
        self._trusts = np.array([library.trusted_wrists[run.clip] for run in runs])
        self._trusted = np.flatnonzero(self._trusts)

    def _read(self, run: Run) -> Float[Tensor, "frames 24 4"]:
        """A run, slightly smoothed."""
        quats = self._recordings.rotations(run, np.arange(self._recordings.length(run)))
        return smooth_quaternions(torch.from_numpy(quats), _ROUNDING).float()

    def draw(self, rng: np.random.Generator) -> Float[Tensor, "frames 24 3 3"]:
        """A window in the world (y up): warped in time, backwards and mirrored each in half of the draws."""
        warped, backwards, mirrored, rate = rng.random(4)
        speed = SPEEDS[0] + rate * (SPEEDS[1] - SPEEDS[0]) if warped < 0.5 else 1.0
        quats = self._joined(math.ceil((self.frames - 1) * speed) + 1, rng)
        if speed != 1.0:
            moments = speed * torch.arange(self.frames, dtype=torch.float64)
            quats = sample_frames(continuous_quaternions(quats).flatten(1), moments).unflatten(1, (-1, 4))
        if backwards < 0.5:
            quats = quats.flip(0)
        if mirrored < 0.5:
            quats = quats[:, list(SMPL_FLIP)] * quats.new_tensor([1.0, 1.0, -1.0, -1.0])
        return quat_wxyz_to_rotmat(quats)

    def batch(self, count: int, seed: tuple[int, ...]) -> BodyParams:
        """Windows as a camera sees them (y down), each of a body of its own; a function of the seed.

        The root is relative to the camera of each frame; cameras may turn after the person and sway.
        """
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        rotations = torch.stack([self.draw(rng) for _ in range(count)])
        root = camera_turns(count, self.frames, generator) @ rotations[:, :, 0]
        betas = torch.randn(count, 1, 10, generator=generator).clamp(-_BETA_LIMIT, _BETA_LIMIT)
        return BodyParams(
            global_orient=root[:, :, None],
            body_pose=rotations[:, :, 1:],
            betas=betas.expand(-1, self.frames, -1),
        )

    def _joined(self, frames: int, rng: np.random.Generator) -> Float[Tensor, "frames 24 4"]:
        """Recordings one after another, each following where it fits best, until there are enough frames."""
        run = self._run(rng)
        start = int(rng.integers(max(self._lengths[run] - frames, 0) + 1))
        quats = self._stretch(run, start, frames, rng)
        while len(quats) < frames:
            run, start = self._continuation(quats, frames - len(quats), rng)
            quats = _faded(quats, self._stretch(run, start, frames - len(quats) + _FADE, rng))
        return quats[:frames]

    def _run(self, rng: np.random.Generator) -> int:
        return self._numbers[self._recordings.draw(_SHORTEST, rng)]

    def _stretch(
        self, run: int, start: int, frames: int, rng: np.random.Generator
    ) -> Float[Tensor, "frames_or_fewer 24 4"]:
        """Frames of a run; wrists that were not recorded come from another, played to and fro."""
        first = int(self._starts[run]) + start
        quats = self._quats[first : first + min(frames, int(self._lengths[run]) - start)]
        if self._trusts[run] or not len(self._trusted):
            return quats
        other = int(rng.choice(self._trusted))
        last = int(self._lengths[other]) - 1
        there = np.abs((rng.integers(2 * last + 1) + np.arange(len(quats))) % (2 * last + 1) - last)
        quats = quats.clone()
        quats[:, _WRISTS] = self._quats[int(self._starts[other]) + there][:, _WRISTS]
        return quats

    def _continuation(
        self, before: Float[Tensor, "frames 24 4"], frames: int, rng: np.random.Generator
    ) -> tuple[int, int]:
        """Run and frame, of several drawn, that begin most like the end of `before`."""
        runs = np.array([self._run(rng) for _ in range(_CANDIDATES)])
        lengths = self._lengths[runs]
        room = lengths - np.maximum(_SHORTEST, np.minimum(frames + _FADE, lengths // 2))
        starts = rng.integers(np.maximum(room, 0) + 1)
        first = torch.from_numpy(self._starts[runs] + starts)
        begins = torch.stack([self._quats[first], self._quats[first + _FADE - 1]], dim=1)
        ends = before[[-_FADE, -1]]
        turn = heading_turn(ends[0, 0], begins[:, 0, 0])
        begins[:, :, 0] = quat_multiply(turn[:, None], begins[:, :, 0])
        near = (begins * ends).sum(-1).abs()[..., :_COMPARED].sum((1, 2))
        best = int(near.argmax())
        return int(runs[best]), int(starts[best])


def camera_turns(count: int, frames: int, generator: torch.Generator) -> Float[Tensor, "count frames 3 3"]:
    """World (y up) to camera (y down) in every frame: from anywhere; some turn aside and back, some sway."""
    still = camera_rotations(count, generator)[:, None]
    pan = torch.rand(count, 1, generator=generator) * _PAN_RAD
    pan = pan * (torch.rand(count, 1, generator=generator) < _PAN_SHARE)
    heading = pan * _waves(count, frames, _PAN_SECONDS, generator)[..., 0]
    sway = torch.rand(count, 1, 1, generator=generator) * _SWAY_RAD
    sway = sway * (torch.rand(count, 1, 1, generator=generator) < _SWAY_SHARE)
    vector = sway * _waves(count, frames, _SWAY_SECONDS, generator)
    up = torch.stack([torch.zeros_like(heading), heading, torch.zeros_like(heading)], dim=-1)
    return axis_angle_to_rotmat(vector) @ still @ axis_angle_to_rotmat(up)


def _waves(
    count: int, frames: int, seconds: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "count frames 3"]:
    """Smooth wandering of unit standard deviation: some waves of random length."""
    shape = (count, 1, 3, _WAVES)
    period = seconds[0] + (seconds[1] - seconds[0]) * torch.rand(shape, generator=generator)
    phase = 2 * math.pi * torch.rand(shape, generator=generator)
    time = torch.arange(frames)[:, None, None] / FRAME_RATE
    return (2 * math.pi * time / period + phase).sin().sum(-1) * math.sqrt(2 / _WAVES)


def _faded(
    before: Float[Tensor, "frames 24 4"], after: Float[Tensor, "more 24 4"]
) -> Float[Tensor, "joined 24 4"]:
    """Turn a stretch to where another ends, and cross-fade."""
    over = min(_FADE, len(before), len(after))
    turn = heading_turn(before[-over, 0], after[:1, 0])
    after = torch.cat([quat_multiply(turn, after[:, 0])[:, None], after[:, 1:]], dim=1)
    share = ((torch.arange(over) + 1) / (over + 1))[:, None, None]
    share = share.square() * (3 - 2 * share)
    return torch.cat([before[:-over], mix_quaternions(before[-over:], after[:over], share), after[over:]])

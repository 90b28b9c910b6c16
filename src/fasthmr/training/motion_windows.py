"""Windows of recorded motion to train motion models on: joined, warped, mirrored, filmed from anywhere.

Rotations alone: what clips with pictures need beside them (a way of the root, a floor) is in
`fasthmr.data.clip_motion`, which joins recordings in the same manner.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.skeletons import SMPL_FLIP
from fasthmr.data.motion import MotionLibrary
from fasthmr.geometry.interpolation import continuous_quaternions
from fasthmr.geometry.quaternions import quat_multiply
from fasthmr.geometry.rotations import axis_angle_to_rotmat, quat_wxyz_to_rotmat, rotmat_to_quat_wxyz
from fasthmr.temporal.representation import SPEEDS, sample_frames
from fasthmr.training.lifter import camera_rotations
from fasthmr.types import BodyParams

FRAME_RATE = 30.0
"""Frames per second of all windows."""

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
        self._library = library
        quats = rotmat_to_quat_wxyz(axis_angle_to_rotmat(torch.from_numpy(library.poses.astype(np.float32))))
        clips = []
        for clip, rate in enumerate(library.rates):
            clips.append(_at_rate(quats[library.starts[clip] : library.starts[clip + 1]], float(rate)))
        self._lengths = np.array([len(clip) for clip in clips])
        if self._lengths.max() < _SHORTEST:
            raise ValueError(f"no recording is {_SHORTEST} frames long")
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])
        self._quats = torch.cat(clips)
        self._trusted = np.flatnonzero(library.trusted_wrists)

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
        clip = self._clip(rng)
        start = int(rng.integers(max(self._lengths[clip] - frames, 0) + 1))
        quats = self._stretch(clip, start, frames, rng)
        while len(quats) < frames:
            clip, start = self._continuation(quats, frames - len(quats), rng)
            quats = _faded(quats, self._stretch(clip, start, frames - len(quats) + _FADE, rng))
        return quats[:frames]

    def _clip(self, rng: np.random.Generator) -> int:
        while True:
            clip = self._library.draw_clip(rng)
            if self._lengths[clip] >= _SHORTEST:
                return clip

    def _stretch(
        self, clip: int, start: int, frames: int, rng: np.random.Generator
    ) -> Float[Tensor, "frames_or_fewer 24 4"]:
        """Frames of a recording; wrists that were not recorded come from another, played to and fro."""
        first = int(self._starts[clip]) + start
        quats = self._quats[first : first + min(frames, int(self._lengths[clip]) - start)]
        if self._library.trusted_wrists[clip] or not len(self._trusted):
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
        """Recording and frame, of several drawn, that begin most like the end of `before`."""
        clips = np.array([self._clip(rng) for _ in range(_CANDIDATES)])
        lengths = self._lengths[clips]
        room = lengths - np.maximum(_SHORTEST, np.minimum(frames + _FADE, lengths // 2))
        starts = rng.integers(np.maximum(room, 0) + 1)
        first = torch.from_numpy(self._starts[clips] + starts)
        begins = torch.stack([self._quats[first], self._quats[first + _FADE - 1]], dim=1)
        ends = before[[-_FADE, -1]]
        turn = _heading(ends[0, 0], begins[:, 0, 0])
        begins[:, :, 0] = quat_multiply(turn[:, None], begins[:, :, 0])
        near = (begins * ends).sum(-1).abs()[..., :_COMPARED].sum((1, 2))
        best = int(near.argmax())
        return int(clips[best]), int(starts[best])


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


def _at_rate(quats: Float[Tensor, "frames 24 4"], rate: float) -> Float[Tensor, "resampled 24 4"]:
    """A recording at the windows' rate, with signs that do not jump, slightly smoothed."""
    quats = continuous_quaternions(quats)
    moments = torch.arange(int((len(quats) - 1) * FRAME_RATE / rate) + 1, dtype=torch.float64)
    values = sample_frames(quats.flatten(1), moments * rate / FRAME_RATE)
    radius = math.ceil(3.5 * _ROUNDING)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / _ROUNDING) ** 2)
    padded = torch.cat([values[:1].expand(radius, -1), values, values[-1:].expand(radius, -1)])
    smooth = padded.unfold(0, 2 * radius + 1, 1) @ (kernel / kernel.sum())
    return F.normalize(smooth.unflatten(1, (-1, 4)), dim=-1)


def _heading(to: Float[Tensor, "4"], start: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """The rotations about y that bring orientations closest to another."""
    between = quat_multiply(to, start * start.new_tensor([1.0, -1.0, -1.0, -1.0]))
    turn = between * between.new_tensor([1.0, 0.0, 1.0, 0.0])
    still = turn.new_tensor([1.0, 0.0, 0.0, 0.0])
    short = turn.norm(dim=-1, keepdim=True) < 1e-6
    return F.normalize(torch.where(short, still, turn), dim=-1)


def _faded(
    before: Float[Tensor, "frames 24 4"], after: Float[Tensor, "more 24 4"]
) -> Float[Tensor, "joined 24 4"]:
    """Turn a stretch to where another ends, and cross-fade."""
    over = min(_FADE, len(before), len(after))
    turn = _heading(before[-over, 0], after[:1, 0])
    after = torch.cat([quat_multiply(turn, after[:, 0])[:, None], after[:, 1:]], dim=1)
    share = ((torch.arange(over) + 1) / (over + 1))[:, None, None]
    share = share.square() * (3 - 2 * share)
    end, begin = before[-over:], after[:over]
    begin = torch.where((end * begin).sum(-1, keepdim=True) < 0, -begin, begin)
    mixed = F.normalize((1 - share) * end + share * begin, dim=-1)
    return torch.cat([before[:-over], mixed, after[over:]])

"""Pairs of true motion and what an image model sees of it, to train temporal models on.

Rendered clips are few. Recorded motion is plenty, so that other pairs are made of it without pictures: its
poses are turned by the errors that the image model made through some rendered clip, frame by frame, and there
are no features. Only what is quick in these errors is taken. The slow errors of a regression depend on the
truth and not on what it says: put on other motion they would teach to draw everything to the mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.geometry.interpolation import mix_rotations, smooth_quaternions
from fasthmr.geometry.rotations import geodesic_angle, quat_wxyz_to_rotmat, rotmat_to_quat_wxyz
from fasthmr.models.motion_decoder import MotionDecoder
from fasthmr.temporal.representation import SPEEDS, sample_frames
from fasthmr.temporal.smoothing import median_shape
from fasthmr.training.clip_features import PairedClip
from fasthmr.training.motion_windows import MotionWindows
from fasthmr.types import BodyParams

_SLOW = 4.0
"""Standard deviation in frames of what counts as slow."""

_REACH = 0.7, 1.4
"""Errors of the root up to the first angle are to be corrected, from the second on they stay (radians)."""

_STRENGTH = (0.6, 1.3)
"""Errors of other clips are taken this many times their angle."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Clips to learn from, standardised.

    Attributes:
        read: As `MotionDecoder.frame_numbers` gives it.
        true: Pose numbers.
    """

    read: Float[Tensor, "batch frames numbers"]
    true: Float[Tensor, "batch frames channels"]


class MotionPairs:
    """Draws pairs, as functions of a seed.

    Args:
        windows: Where motion without pictures comes from; None for rendered clips alone.
    """

    def __init__(
        self, decoder: MotionDecoder, clips: Sequence[PairedClip], windows: MotionWindows | None = None
    ) -> None:
        self._decoder, self._windows = decoder, windows
        self.read = torch.stack([decoder.frame_numbers(clip.read) for clip in clips])
        self.true = torch.stack([decoder.prior.numbers(within_reach(clip)) for clip in clips])
        errors = torch.stack([c.read.params.rotmats @ c.true.params.rotmats.mT for c in clips])
        self._errors = errors @ slow_part(errors).mT
        self._shape_errors = torch.stack(
            [median_shape(clip.read.params.betas)[0] - clip.true.params.betas[0] for clip in clips]
        )

    def rendered(self, count: int, seed: tuple[int, ...]) -> PairBatch:
        """Clips with features: some slowed down, and half of them backwards."""
        rng = np.random.default_rng(seed)
        both = torch.cat([self.true, self.read], dim=-1)[rng.integers(len(self.true), size=count)]
        clips = torch.stack([_warped(clip, rng) for clip in both])
        channels = self.true.shape[-1]
        return PairBatch(read=clips[..., channels:], true=clips[..., :channels])

    def disturbed(self, count: int, seed: tuple[int, ...]) -> PairBatch:
        """Recorded motion turned by errors of other clips, without features.

        Raises:
            ValueError: There are no windows to draw from.
        """
        if self._windows is None:
            raise ValueError("there is no recorded motion to disturb")
        rng = np.random.default_rng(seed)
        true = self._windows.batch(count, (*seed, 1))
        chosen = torch.from_numpy(rng.integers(len(self._errors), size=count))
        errors = self._errors[chosen].clone()
        side = self.read[chosen, :, self._decoder.channels :].clone()
        for row in np.flatnonzero(rng.random(count) < 0.5):
            errors[row], side[row] = errors[row].flip(0), side[row].flip(0)
        strength = torch.from_numpy(rng.uniform(*_STRENGTH, size=count)).to(errors)
        none = torch.eye(3).expand_as(errors)
        turned = mix_rotations(none, errors, strength[:, None, None]) @ true.rotmats
        betas = true.betas + self._shape_errors[chosen][:, None]
        true = dataclasses.replace(true, betas=betas)
        prior, features = self._decoder.prior, self._decoder.config.features
        read = prior.numbers(
            BodyParams(global_orient=turned[:, :, :1], body_pose=turned[:, :, 1:], betas=betas)
        )
        shape = slice(0, betas.shape[-1])
        side[..., shape] = (betas - self._decoder.side.mean[shape]) / self._decoder.side.std[shape]
        side[..., -features:] = torch.nan
        return PairBatch(read=torch.cat([read, side], dim=-1), true=prior.numbers(true))


def slow_part(rotmats: Float[Tensor, "clips frames joints 3 3"]) -> Float[Tensor, "clips frames joints 3 3"]:
    """Rotations through a Gaussian filter of `_SLOW` frames."""
    return torch.stack(
        [quat_wxyz_to_rotmat(smooth_quaternions(rotmat_to_quat_wxyz(c), _SLOW)) for c in rotmats]
    )


def within_reach(clip: PairedClip) -> BodyParams:
    """The true motion, but with the root of the image model, smoothed, where that is far off.

    Whether somebody is seen from the front or the back cannot be told from the poses, and the mean of both is
    no pose at all.
    """
    root = slow_part(clip.read.params.global_orient[None])[0]
    true = clip.true.params.global_orient
    near, far = _REACH
    share = ((far - geodesic_angle(root, true)) / (far - near)).clamp(0, 1)
    return dataclasses.replace(clip.true.params, global_orient=mix_rotations(root, true, share))


def _warped(
    clip: Float[Tensor, "frames numbers"], rng: np.random.Generator
) -> Float[Tensor, "frames numbers"]:
    """A part of a clip as a whole one: half of them backwards, half of them slower."""
    backwards, warped, rate, place = rng.random(4)
    if warped < 0.5:
        frames = len(clip)
        speed = SPEEDS[0] + rate * (1 - SPEEDS[0])
        start = place * (frames - 1) * (1 - speed)
        clip = sample_frames(clip, start + speed * torch.arange(frames, dtype=torch.float64))
    return clip.flip(0) if backwards < 0.5 else clip

"""Poses as the 133 numbers that motion models work on, and clips of them in time.

29 points relative to the pelvis (87 numbers, metres, axes of the camera), then cosine and sine of the twist
of joints 1 to 23 (46 numbers): FastHMR's pose (arXiv 2510.10868, sec. 3.3), with HybrIK's skeleton. There is
no root rotation; it follows from the points. Numbers are raw here, not standardised, unless it says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.ik import IK_PARENTS, NUM_JOINTS, IKSkeleton, forward_kinematics
from fasthmr.body.ik_refine import refine_rotations
from fasthmr.body.swing_twist import solve_rotations, twists_of
from fasthmr.types import BodyParams

POINT_CHANNELS = 3 * len(IK_PARENTS)
MOTION_CHANNELS = POINT_CHANNELS + 2 * (NUM_JOINTS - 1)
STD_FLOOR = 1e-3
SPEEDS = (0.75, 1.5)
"""Range of time warping; the paper gives none."""


class PoseRepresentation(nn.Module):
    """Rotations to 133 numbers and back, for bodies with the 24 joints of SMPL."""

    def __init__(self, skeleton: IKSkeleton) -> None:
        super().__init__()
        self.skeleton = skeleton

    def encode(self, params: BodyParams) -> Float[Tensor, "*batch 133"]:
        """Points of the posed skeleton and twists. `transl` plays no part."""
        rotmats = torch.cat([params.global_orient, params.body_pose], dim=-3)
        rest = self.skeleton.rest(params.betas)
        points, _ = forward_kinematics(rotmats, rest)
        return join_motion(points - points[..., :1, :], twists_of(rotmats, rest))

    def decode(
        self,
        motion: Float[Tensor, "*#batch 133"],
        betas: Float[Tensor, "*#batch num_betas"],
        *,
        refine_steps: int = 2,
        sigma: float = 0.01,
    ) -> Float[Tensor, "*batch 24 3 3"]:
        """Rotation of each joint to its parent, the root's to the axes of the points.

        The inverse of `encode` for numbers that a body can take. For others the points decide more than the
        twists, each bone keeps the length that the shape gives it, and pairs count by their direction.

        Args:
            refine_steps: Steps of `refine_rotations` after the solver; 0 for none.
            sigma: Expected error of the points in metres, for these steps.
        """
        points, twists = split_motion(motion)
        rest = self.skeleton.rest(betas)
        rotmats = solve_rotations(points, twists, rest)
        return refine_rotations(rotmats, points, rest, steps=refine_steps, sigma=sigma)


def split_motion(
    motion: Float[Tensor, "*batch 133"],
) -> tuple[Float[Tensor, "*batch 29 3"], Float[Tensor, "*batch 23 2"]]:
    """Points and (cosine, sine) pairs."""
    points, pairs = motion[..., :POINT_CHANNELS], motion[..., POINT_CHANNELS:]
    return points.unflatten(-1, (-1, 3)), pairs.unflatten(-1, (-1, 2))


def join_motion(
    points: Float[Tensor, "*batch 29 3"], pairs: Float[Tensor, "*batch 23 2"]
) -> Float[Tensor, "*batch 133"]:
    """The inverse of `split_motion`."""
    return torch.cat([points.flatten(-2), pairs.flatten(-2)], dim=-1)


def unit_twists(motion: Float[Tensor, "*batch 133"]) -> Float[Tensor, "*batch 133"]:
    """The same with (cosine, sine) pairs of length 1, as mixing frames does not leave them."""
    points, pairs = split_motion(motion)
    return join_motion(points, F.normalize(pairs, dim=-1, eps=1e-8))


class Standardiser(nn.Module):
    """Numbers of mean 0 and variance 1 in each channel, with what that takes stored among the weights.

    Channels that vary by less than `floor` are divided by `floor`: constants become 0 and come back exactly.
    """

    mean: Float[Tensor, "channels"]
    std: Float[Tensor, "channels"]

    def __init__(self, channels: int = MOTION_CHANNELS, floor: float = STD_FLOOR) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @torch.no_grad()
    def fit(self, batches: Iterable[Float[Tensor, "... channels"]]) -> None:
        """Take mean and standard deviation from data, read once.

        Raises:
            ValueError: There are no frames, or some are not finite.
        """
        count = 0
        offset = total = squares = torch.zeros_like(self.mean, dtype=torch.float64)
        for batch in batches:
            rows = batch.to(offset).flatten(0, -2)
            if count == 0 and len(rows):
                offset = rows.mean(0)  # keeps the sums small beside the variance
            count += len(rows)
            total = total + (rows - offset).sum(0)
            squares = squares + (rows - offset).square().sum(0)
        if count == 0 or not bool(squares.isfinite().all()):
            raise ValueError("Standardiser.fit: no frames" if count == 0 else "Standardiser.fit: not finite")
        mean = total / count
        self.mean.copy_(offset + mean)
        self.std.copy_((squares / count - mean.square()).clamp(min=self.floor**2).sqrt())

    def normalise(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        return (x - self.mean) / self.std

    def restore(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch channels"]:
        """The inverse of `normalise`."""
        return x * self.std + self.mean


def sample_frames(
    sequence: Float[Tensor, "*batch frames channels"], positions: Float[Tensor, "sampled"]
) -> Float[Tensor, "*batch sampled channels"]:
    """Values between frames, linearly; beyond the ends the first and the last frame."""
    last = sequence.shape[-2] - 1
    positions = positions.clamp(0, last)
    left = positions.floor().long().clamp(max=max(last - 1, 0))
    share = (positions - left).to(sequence.dtype)[:, None]
    return torch.lerp(sequence[..., left, :], sequence[..., (left + 1).clamp(max=last), :], share)


def resample(
    sequence: Float[Tensor, "*batch frames channels"], frames: int
) -> Float[Tensor, "*batch sampled channels"]:
    """Another number of frames over the same time, first and last frame kept."""
    if frames == sequence.shape[-2]:
        return sequence
    ends = 0, sequence.shape[-2] - 1
    return sample_frames(sequence, torch.linspace(*ends, frames, dtype=torch.float64, device=sequence.device))


def resample_motion(
    motion: Float[Tensor, "*batch frames 133"], frames: int
) -> Float[Tensor, "*batch sampled 133"]:
    """`resample` for poses: pairs keep their length."""
    return unit_twists(resample(motion, frames))


def reverse(sequence: Float[Tensor, "*batch frames channels"]) -> Float[Tensor, "*batch frames channels"]:
    """Backwards in time. Nothing changes its sign: a frame has no velocity."""
    return sequence.flip(-2)


def time_warp(
    motion: Float[Tensor, "*batch frames 133"],
    features: Float[Tensor, "*batch frames width"],
    speed: float,
    *,
    frames: int | None = None,
    start: float = 0.0,
) -> tuple[Float[Tensor, "*batch sampled 133"], Float[Tensor, "*batch sampled width"]]:
    """A clip and the features of its frames, played faster (above 1) or slower.

    Args:
        frames: Length of the result; as many as there are by default.
        start: Where in the clip it begins, in frames.

    Raises:
        ValueError: The speed is not positive, or the clip is too short for that many frames.
    """
    if speed <= 0 or start < 0:
        raise ValueError(f"time_warp: speed {speed:g} must be positive, start {start:g} not negative")
    room = motion.shape[-2] - 1 - start
    count = int(room / speed + 1e-6) + 1 if frames is None else frames
    if room < 0 or (count - 1) * speed > room + 1e-6:
        raise ValueError(
            f"time_warp: {count} frames at speed {speed:g} from frame {start:g} do not fit into the "
            f"{motion.shape[-2]} frames of the clip"
        )
    positions = start + speed * torch.arange(count, dtype=torch.float64, device=motion.device)
    return unit_twists(sample_frames(motion, positions)), sample_frames(features, positions)


def augment_clip(
    motion: Float[Tensor, "*batch frames 133"],
    features: Float[Tensor, "*batch frames width"],
    frames: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "*batch sampled 133"], Float[Tensor, "*batch sampled width"]]:
    """Some stretch of a recording as a training clip: backwards in half of the draws, warped in half.

    A recording too short for the speed drawn is played so slowly that it fills the clip, as at inference.
    """
    backwards, warped, rate, place = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    slowest, fastest = SPEEDS
    speed = slowest + rate * (fastest - slowest) if warped < 0.5 else 1.0
    room = motion.shape[-2] - 1
    speed = min(speed, room / max(frames - 1, 1))
    if speed <= 0:
        return resample_motion(motion, frames), resample(features, frames)
    free = max(room - (frames - 1) * speed, 0.0)
    start = min(float(int(place * (free + 1))), free)  # a whole frame, so that speed 1 does not smooth
    clip = time_warp(motion, features, speed, frames=frames, start=start)
    return (reverse(clip[0]), reverse(clip[1])) if backwards < 0.5 else clip

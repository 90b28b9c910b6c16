"""Poses as the 133 numbers that motion models work on, and clips of them in time.

29 points relative to the pelvis (87 numbers, metres, axes of the camera), then cosine and sine of the twist
of joints 1 to 23 (46 numbers): FastHMR's pose (arXiv 2510.10868, sec. 3.3), with HybrIK's skeleton. There is
no root rotation; it follows from the points. Numbers are raw here, not standardised, unless it says so.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
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
        rotmats = params.rotmats
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

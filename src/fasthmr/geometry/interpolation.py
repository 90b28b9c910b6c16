"""Values and rotations between the frames in which they are known."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fasthmr.geometry.rotations import quat_wxyz_to_rotmat, rotmat_to_quat_wxyz


def continuous_quaternions(quat: Float[Tensor, "frames *batch 4"]) -> Float[Tensor, "frames *batch 4"]:
    """The same rotations with signs that make neighbours in time lie on one half sphere."""
    opposed = (quat[1:] * quat[:-1]).sum(-1, keepdim=True) < 0
    signs = torch.where(opposed, -1.0, 1.0).to(quat).cumprod(0)
    return torch.cat([quat[:1], quat[1:] * signs])


def smooth_values(values: Float[Tensor, "frames *rest"], sigma: float) -> Float[Tensor, "frames *rest"]:
    """Gaussian smoothing along time (frames), the ends repeated."""
    radius = math.ceil(3.5 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(values) / sigma) ** 2)
    first, last = (end.expand(radius, *values.shape[1:]) for end in (values[:1], values[-1:]))
    return torch.cat([first, values, last]).unfold(0, 2 * radius + 1, 1) @ (kernel / kernel.sum())


def smooth_quaternions(
    quat: Float[Tensor, "frames *batch 4"], sigma: float
) -> Float[Tensor, "frames *batch 4"]:
    """Gaussian smoothing of rotations along time (frames)."""
    return F.normalize(smooth_values(continuous_quaternions(quat), sigma), dim=-1)


def mix_quaternions(
    a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"], share: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch 4"]:
    """From `a` (share 0) to `b` (share 1) where they are not far apart: the chord, brought to length 1."""
    b = torch.where((a * b).sum(-1, keepdim=True) < 0, -b, b)
    return F.normalize((1 - share) * a + share * b, dim=-1)


def sample_values(
    values: Float[Tensor, "frames *batch"], times: Float[Tensor, "frames"], at: Float[Tensor, "samples"]
) -> Float[Tensor, "samples *batch"]:
    """Straight lines between at least one frame; the first and the last value hold beyond them.

    Args:
        times: Increasing.
    """
    before, after, share = _neighbours(times, at)
    return torch.lerp(values[before], values[after], _as_column(share, values).to(values))


def sample_rotations(
    R: Float[Tensor, "frames *batch 3 3"], times: Float[Tensor, "frames"], at: Float[Tensor, "samples"]
) -> Float[Tensor, "samples *batch 3 3"]:
    """Turns of constant speed between at least one frame (slerp); the outer ones hold beyond them.

    Args:
        times: Increasing.
    """
    before, after, share = _neighbours(times, at)
    quat = rotmat_to_quat_wxyz(R)
    return quat_wxyz_to_rotmat(_slerp(quat[before], quat[after], _as_column(share, quat).to(quat)))


def mix_rotations(
    a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"], share: Float[Tensor, "*#batch"] | float
) -> Float[Tensor, "*batch 3 3"]:
    """The shorter turn from `a` (share 0) to `b` (share 1); more than 1 goes on beyond it."""
    quat = rotmat_to_quat_wxyz(a)
    share = torch.as_tensor(share, dtype=quat.dtype, device=quat.device)[..., None]
    return quat_wxyz_to_rotmat(_slerp(quat, rotmat_to_quat_wxyz(b), share))


def _slerp(
    a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"], share: Float[Tensor, "*batch_1 1"]
) -> Float[Tensor, "*batch 4"]:
    """The shorter arc from unit quaternion `a` (share 0) to `b` (share 1)."""
    cosine = (a * b).sum(-1, keepdim=True)
    b, cosine = torch.where(cosine < 0, -b, b), cosine.abs()
    angle = torch.atan2(torch.linalg.vector_norm(b - a * cosine, dim=-1, keepdim=True), cosine)
    sine = angle.sin()
    straight = sine < 1e-6  # then the chord is the arc
    sine = torch.where(straight, torch.ones_like(sine), sine)
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / sine
    return F.normalize(torch.where(straight, torch.lerp(a, b, share), arc), dim=-1)


def _neighbours(times: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Frames on both sides of each moment, and how far on the way to the later one it is (0..1)."""
    after = torch.searchsorted(times, at).clamp(max=len(times) - 1)
    before = (after - 1).clamp(min=0)
    span = times[after] - times[before]
    share = (at - times[before]) / torch.where(span > 0, span, torch.ones_like(span))
    return before, after, torch.where(span > 0, share.clamp(0, 1), torch.zeros_like(share))


def _as_column(share: Tensor, values: Tensor) -> Tensor:
    return share.reshape(-1, *[1] * (values.ndim - 1))

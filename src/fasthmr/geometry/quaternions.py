"""Arithmetic of unit quaternions (w, x, y, z), for any leading batch shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_SMALL = 1e-6  # radians; below, the chord is the arc


def quat_multiply(
    a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch_b 4"]
) -> Float[Tensor, "*batch_both 4"]:
    """The rotation `b` and then `a`."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        dim=-1,
    )


def quat_to_vector(
    start: Float[Tensor, "*batch 4"], end: Float[Tensor, "*batch_b 4"]
) -> Float[Tensor, "*batch_both 3"]:
    """The shortest turn from one rotation to another as a rotation vector in the frame of the first."""
    between = quat_multiply(start * start.new_tensor((1, -1, -1, -1)), end)
    real, imaginary = between[..., :1], between[..., 1:]
    sine = torch.linalg.vector_norm(imaginary, dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, real.abs())
    scale = torch.where(sine < _SMALL, 2.0, angle / sine.clamp(min=_SMALL))
    return torch.where(real < 0, -scale, scale) * imaginary


def turn_quat(
    start: Float[Tensor, "*batch 4"], vector: Float[Tensor, "*batch_b 3"]
) -> Float[Tensor, "*batch_both 4"]:
    """A rotation turned on by a rotation vector in its own frame; the inverse of `quat_to_vector`."""
    angle = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    scale = torch.where(angle < _SMALL, 0.5, (angle / 2).sin() / angle.clamp(min=_SMALL))
    return quat_multiply(start, torch.cat([(angle / 2).cos(), scale * vector], dim=-1))


def heading_turn(
    to: Float[Tensor, "*batch 4"], start: Float[Tensor, "*batch_b 4"]
) -> Float[Tensor, "*batch_both 4"]:
    """The rotation about y that, after `start`, comes closest to `to`; none where all are as close."""
    between = quat_multiply(to, start * start.new_tensor((1, -1, -1, -1)))
    turn = between * between.new_tensor((1, 0, 1, 0))
    short = torch.linalg.vector_norm(turn, dim=-1, keepdim=True) < _SMALL
    return F.normalize(torch.where(short, turn.new_tensor((1, 0, 0, 0)), turn), dim=-1)

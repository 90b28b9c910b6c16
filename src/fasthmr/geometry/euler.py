"""Rotations as turns about coordinate axes, as animation formats write them. Radians."""

from __future__ import annotations

from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

_PLANE = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
_EVEN = {"xyz", "yzx", "zxy"}


def euler_to_rotmat(angles: Float[Tensor, "*batch turns"], axes: str) -> Float[Tensor, "*batch 3 3"]:
    """Product of turns about the axes from left to right: "zxy" means Rz Rx Ry; any number of turns.

    Args:
        axes: One letter of x, y, z for each angle.
    """
    assert len(axes) == angles.shape[-1]
    turns = [_turn(angles[..., index], axis) for index, axis in enumerate(axes)]
    eye = torch.eye(3, dtype=angles.dtype, device=angles.device)
    return reduce(torch.matmul, turns, eye.expand(*angles.shape[:-1], 3, 3))


def rotmat_to_euler(R: Float[Tensor, "*batch 3 3"], axes: str = "zxy") -> Float[Tensor, "*batch 3"]:
    """Angles of three turns about different axes, the middle one within a quarter turn.

    Where the middle angle is a quarter turn the first is arbitrary and the last makes up for it, so that the
    product is right at every rotation.
    """
    sign = 1.0 if axes in _EVEN else -1.0
    i, j, k = ("xyz".index(axis) for axis in axes)
    first = torch.atan2(-sign * R[..., j, k], R[..., k, k])
    middle = torch.atan2(sign * R[..., i, k], torch.hypot(R[..., i, i], R[..., i, j]))
    # Row j of the last turn is what the first turn, undone, leaves of rows j and k.
    row = first.cos()[..., None] * R[..., j, :] + sign * first.sin()[..., None] * R[..., k, :]
    last = torch.atan2(sign * row[..., i], row[..., j])
    return torch.stack([first, middle, last], dim=-1)


def continuous_euler(angles: Float[Tensor, "frames *batch 3"]) -> Float[Tensor, "frames *batch 3"]:
    """The same rotations with angles that jump as little as possible from frame to frame.

    Adding half a turn to the outer angles while the middle one becomes half a turn minus itself, or any whole
    turns, changes nothing.
    """
    turn = 2 * torch.pi
    shift = angles.new_tensor([torch.pi, torch.pi, torch.pi])
    mirrored = angles * angles.new_tensor([1.0, -1.0, 1.0]) + shift
    kept = [angles[:1]] if len(angles) else []
    for here, there in zip(angles[1:], mirrored[1:], strict=True):
        before = kept[-1][0]
        both = torch.stack([here, there])
        both = both - turn * ((both - before) / turn).round()
        nearer = (both - before).abs().sum(-1).argmin(0)
        kept.append(torch.where((nearer == 0)[..., None], both[0], both[1])[None])
    return torch.cat(kept) if kept else angles


def _turn(angle: Float[Tensor, "*batch"], axis: str) -> Float[Tensor, "*batch 3 3"]:
    one, two = _PLANE[axis]
    R = torch.zeros(*angle.shape, 3, 3, dtype=angle.dtype, device=angle.device)
    fixed = 3 - one - two
    R[..., fixed, fixed] = 1
    R[..., one, one] = R[..., two, two] = angle.cos()
    R[..., two, one] = angle.sin()
    R[..., one, two] = -angle.sin()
    return R

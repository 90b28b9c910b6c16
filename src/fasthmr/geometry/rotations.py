"""Conversions between rotation representations, for any leading batch shape.

Matrices turn column vectors (y = R x). Quaternions are (w, x, y, z). Angles are radians.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Rot6DLayout = Literal["columns", "rows"]
"""Order of the six numbers: `columns` is first column then second (HMR 2.0); `rows` is the two columns
interleaved row by row, i.e. the left 3x2 block flattened (SPIN, HMR, CLIFF)."""


def rot6d_to_rotmat(
    x: Float[Tensor, "*batch 6"], layout: Rot6DLayout = "columns"
) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt of two raw columns; the third is their cross product (arXiv 1812.07035, eq. 15).

    Args:
        layout: How the six numbers are packed (see `Rot6DLayout`); published models differ.
    """
    if layout == "columns":
        a1, a2 = x[..., :3], x[..., 3:]
    else:
        a1, a2 = x[..., 0::2], x[..., 1::2]
    b1 = F.normalize(a1, dim=-1)
    b2 = F.normalize(a2 - (b1 * a2).sum(-1, keepdim=True) * b1, dim=-1)
    return torch.stack((b1, b2, torch.linalg.cross(b1, b2, dim=-1)), dim=-1)


def rotmat_to_rot6d(
    R: Float[Tensor, "*batch 3 3"], layout: Rot6DLayout = "columns"
) -> Float[Tensor, "*batch 6"]:
    """The first two columns of the matrix, packed as `layout` says."""
    columns = R[..., :2]
    return columns.mT.flatten(-2) if layout == "columns" else columns.flatten(-2)


def quat_wxyz_to_rotmat(quat: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of a quaternion of any length but zero."""
    w, x, y, z = F.normalize(quat, dim=-1).unbind(-1)
    rows = (
        (w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotmat_to_quat_wxyz(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion with w >= 0, accurate at every angle.

    All rows of 4 q qᵀ are multiples of q; the one with the largest diagonal entry is used.
    """
    (r00, r01, r02), (r10, r11, r12), (r20, r21, r22) = (row.unbind(-1) for row in R.unbind(-2))
    wx, wy, wz = r21 - r12, r02 - r20, r10 - r01
    xy, xz, yz = r01 + r10, r02 + r20, r12 + r21
    outer = (
        (1 + r00 + r11 + r22, wx, wy, wz),
        (wx, 1 + r00 - r11 - r22, xy, xz),
        (wy, xy, 1 - r00 + r11 - r22, yz),
        (wz, xz, yz, 1 - r00 - r11 + r22),
    )
    rows = torch.stack([torch.stack(row, dim=-1) for row in outer], dim=-2)
    largest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    index = largest[..., None, None].expand(*largest.shape, 1, 4)
    quat = F.normalize(rows.gather(-2, index)[..., 0, :], dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def axis_angle_to_rotmat(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrix of a rotation vector, smooth at zero.

    Follows the released code of HMR 2.0 (after SMPLify-X): through a quaternion, with the angle taken as
    the length of the vector plus 1e-8 in every coordinate.
    """
    angle = torch.linalg.vector_norm(axis_angle + 1e-8, dim=-1, keepdim=True).clamp(min=1e-12)
    quat = torch.cat([(angle / 2).cos(), (angle / 2).sin() * (axis_angle / angle)], dim=-1)
    return quat_wxyz_to_rotmat(quat)


def rotmat_to_axis_angle(R: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector with an angle in [0, pi]; accurate and differentiable near zero and near pi."""
    quat = rotmat_to_quat_wxyz(R)
    w, v = quat[..., :1], quat[..., 1:]
    squared = (v * v).sum(-1, keepdim=True)
    tiny = squared < torch.finfo(R.dtype).eps ** 2
    sine = torch.where(tiny, torch.ones_like(squared), squared).sqrt()
    return v * torch.where(tiny, 2 * torch.ones_like(sine), 2 * torch.atan2(sine, w) / sine)


def geodesic_angle(
    Ra: Float[Tensor, "*batch 3 3"], Rb: Float[Tensor, "*batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Angle of the rotation between two matrices, in [0, pi], accurate at both ends."""
    R = Ra.mT @ Rb
    twice_sine = torch.stack(
        (R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]), dim=-1
    )
    twice_cosine = R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.atan2(torch.linalg.vector_norm(twice_sine, dim=-1), twice_cosine)

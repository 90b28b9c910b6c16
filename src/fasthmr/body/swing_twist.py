"""Swing-twist inverse kinematics: 29 points and 23 twist angles to 24 rotations.

The rotation of a joint is a swing, the smallest rotation that takes its bone to where it points, after a
twist about the bone (HybrIK, arXiv 2011.14672, sec. 3.2-3.4). Points say all swings and the root; one angle
each says the rest. All joints of equal depth in all frames are solved at once.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.ik import IK_CHILDREN, TREE_LEVELS, bones_of

Solver = Literal["adaptive", "naive"]
RootSolver = Literal["svd", "analytic"]
Swing = Literal["exact", "released"]

GUARD = 0.015
"""Metres by which the accumulated correction may move the target of a bone before it is dropped."""

_SPINE, _HIPS = 3, (1, 2)
_OPPOSITE = 1e-3  # |a + b| of unit vectors below which every axis of a half turn is as good as another
_SHORT = 1e-8


def twists_of(
    rotmats: Float[Tensor, "*#batch 24 3 3"], rest: Float[Tensor, "*#batch 29 3"]
) -> Float[Tensor, "*batch 23 2"]:
    """Cosine and sine of the twist about its bone of every joint but the root.

    Args:
        rotmats: Rotation of each joint to its parent.
        rest: Rest points of the body.
    """
    bone, spare = _bone_directions(rest)
    R = rotmats[..., 1:, :, :]
    middle, opposite = _bisector(bone, (R @ bone[..., None])[..., 0])
    first = torch.where(opposite, spare, bone)
    Q = _turn_half(first, _turn_half(middle, R))
    cosine = 0.5 * (Q.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)
    sine = 0.5 * (bone * _antisymmetric(Q)).sum(-1)
    return torch.stack((cosine, sine), dim=-1)


def solve_rotations(
    joints: Float[Tensor, "*#batch 29 3"],
    twists: Float[Tensor, "*#batch 23 2"],
    rest: Float[Tensor, "*#batch 29 3"],
    *,
    solver: Solver = "adaptive",
    root: RootSolver = "svd",
    guard: float | None = GUARD,
    swing: Swing = "exact",
) -> Float[Tensor, "*batch 24 3 3"]:
    """Rotation of each joint to its parent from where the points are and how the bones are twisted.

    `adaptive` aims every bone from where the rotations found so far put its joint, so that errors of bone
    lengths do not add up; a bone whose aim that moves by more than `guard` aims along its own two points.
    `naive` always does the latter.

    Exact on points of a body (float32: rotation entries within 1e-4). Always rotations, also for points
    in one place, pairs (0, 0) (no twist) and swings of 180 degrees (about an axis that depends on the bone
    alone, as in `twists_of`). Differentiable.

    Args:
        joints: Any origin; metres.
        twists: (cosine, sine) for joints 1 to 23, of any length.
        rest: Rest points of the body.
        root: `svd` fits the root to its three children; `analytic` aims the spine and then turns the middle
            of the hips about it, which is ill conditioned (that lever is 1 to 2 cm long).
        guard: None for no limit.
        swing: `released` is the formula of HybrIK's released code, 1e-8 in its denominators, for comparisons:
            off a rotation by 1e-4 where bones are short, and no rotation at 180 degrees.
    """
    targets = joints - joints[..., :1, :] + rest[..., :1, :]
    bones, wanted = bones_of(rest), bones_of(targets)
    children = list(IK_CHILDREN)
    own, along = bones[..., children, :], wanted[..., children, :]
    along_fitted = along * (_length(own) / _length(along))
    aims = targets[..., children, :]
    bone, spare = _bone_directions(rest)
    twist = _rotation_about(bone, _unit_pairs(twists))
    twist_then_half_turn = _turn_half(bone, twist), _turn_half(spare, twist)

    R_root = _root_by_svd(bones, wanted) if root == "svd" else _root_analytic(bones, wanted)
    solved, world = [R_root[..., None, :, :]], R_root[..., None, :, :]
    located = rest[..., :1, :]
    for level, parents in TREE_LEVELS:
        above = world[..., parents, :, :]
        if solver == "naive":
            aim = along[..., level, :]
        else:
            located = located[..., parents, :] + (above @ bones[..., level, :, None])[..., 0]
            aim = aims[..., level, :] - located
            if guard is not None:
                plain = along_fitted[..., level, :]
                aim = torch.where(_length(aim - plain) > guard, plain, aim)
        aim = (above.mT @ aim[..., None])[..., 0]
        here = slice(level.start - 1, level.stop - 1)  # twists begin with joint 1
        if swing == "released":
            solved.append(_released_swing(own[..., level, :], aim) @ twist[..., here, :, :])
        else:
            middle, opposite = _bisector(bone[..., here, :], _direction(aim, bone[..., here, :]))
            ordinary, reversing = (turned[..., here, :, :] for turned in twist_then_half_turn)
            solved.append(_turn_half(middle, torch.where(opposite[..., None], reversing, ordinary)))
        world = above @ solved[-1]
    return torch.cat(solved, dim=-3)


def _bone_directions(
    rest: Float[Tensor, "*batch 29 3"],
) -> tuple[Float[Tensor, "*batch 23 3"], Float[Tensor, "*batch 23 3"]]:
    """Unit bone of joints 1 to 23, and for each a unit vector orthogonal to it."""
    bones = bones_of(rest)[..., list(IK_CHILDREN[1:]), :]
    up = torch.zeros_like(bones)
    up[..., 1] = 1
    bone = _direction(bones, up)
    least = F.one_hot(bone.abs().argmin(-1), 3).to(bone.dtype)
    return bone, F.normalize(torch.linalg.cross(bone, least, dim=-1), dim=-1)


def _direction(vector: Float[Tensor, "*#n 3"], fallback: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*n 3"]:
    """Unit vector, of the fallback where the vector has no length."""
    none = (vector * vector).sum(-1, keepdim=True) < _SHORT**2
    return F.normalize(torch.where(none, fallback, vector), dim=-1)


def _length(vector: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 1"]:
    """At least 1e-8, with a gradient of zero there."""
    return (vector * vector).sum(-1, keepdim=True).clamp(min=_SHORT**2).sqrt()


def _unit_pairs(twists: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
    """Pairs of length 1; (1, 0) for those without length."""
    none = (twists * twists).sum(-1, keepdim=True) < _SHORT**2
    return F.normalize(torch.where(none, twists.new_tensor([1.0, 0.0]), twists), dim=-1)


def _bisector(
    start: Float[Tensor, "*#n 3"], end: Float[Tensor, "*#n 3"]
) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n 1"]]:
    """Unit vector m such that half turns about `start`, then m, are the smallest rotation of start to end.

    A product of half turns is a rotation to the last bit, at every angle. Where end is opposite (second
    value) the first half turn has to be about a vector orthogonal to start; m then makes up for the rest.
    """
    total = start + end  # exact where it is small
    opposite = (total * total).sum(-1, keepdim=True) < _OPPOSITE**2
    return F.normalize(torch.where(opposite, end - start, total), dim=-1), opposite


def _turn_half(axis: Float[Tensor, "*#n 3"], matrix: Float[Tensor, "*#n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """(2 a aᵀ - I) M: half a turn about the unit axis."""
    return 2 * (axis[..., None] @ (axis[..., None, :] @ matrix)) - matrix


def _antisymmetric(matrix: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3"]:
    """The vector v with M - Mᵀ = [v]x."""
    return torch.stack(
        (
            matrix[..., 2, 1] - matrix[..., 1, 2],
            matrix[..., 0, 2] - matrix[..., 2, 0],
            matrix[..., 1, 0] - matrix[..., 0, 1],
        ),
        dim=-1,
    )


def cross_matrix(vector: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """[v]x, the matrix of the cross product with v."""
    eye = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return torch.linalg.cross(eye.expand(*vector.shape, 3), vector[..., None, :], dim=-1)


def _rotation_about(axis: Float[Tensor, "*#n 3"], pair: Float[Tensor, "*#n 2"]) -> Float[Tensor, "*n 3 3"]:
    """I + sin K + (1 - cos) K² (Rodrigues), K the cross product with the axis as it is."""
    K = cross_matrix(axis)
    cosine, sine = pair[..., :1, None], pair[..., 1:, None]
    return torch.eye(3, dtype=K.dtype, device=K.device) + sine * K + (1 - cosine) * (K @ K)


def _root_by_svd(
    bones: Float[Tensor, "*#batch 29 3"], wanted: Float[Tensor, "*#batch 29 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """The rotation that brings the bones to the hips and the first spine joint closest to the wanted ones."""
    ends = [_SPINE, *_HIPS]
    M = wanted[..., ends, :].mT @ bones[..., ends, :]
    u, _, vh = torch.linalg.svd(M.detach())
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vh).sign()
    eye = torch.eye(3, dtype=M.dtype, device=M.device)
    R = torch.where((M == 0).all(-1).all(-1)[..., None, None], eye, (u * sign[..., None, :]) @ vh)
    if not M.requires_grad:
        return R
    # Gradient of the optimum, where Rᵀ M is symmetric: (tr(P) I - P) w = antisymmetric part, P = Rᵀ M. That
    # of the factors divides by differences of singular values, which may be equal.
    P = R.mT @ M
    fixed = P.detach()
    trace = fixed.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    curvature = trace * eye - fixed + (1e-6 * trace.abs() + 1e-12) * eye
    moved = _antisymmetric(P)
    w = torch.linalg.solve(curvature, (moved - moved.detach())[..., None])[..., 0]
    return R + R @ cross_matrix(w)


def _root_analytic(
    bones: Float[Tensor, "*#batch 29 3"], wanted: Float[Tensor, "*#batch 29 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """Swing of the first spine bone, then the turn about it that brings the middle of the hips closest.

    Follows the released code of HybrIK down to the 1e-8 in the denominators, which shows: the lever is so
    short that its square is about 1e-4.
    """
    spine = wanted[..., _SPINE, :]
    swing = _released_swing(bones[..., _SPINE, :], spine)
    axis = spine / (_length(spine) + _SHORT)

    def across(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        return points - (points * axis).sum(-1, keepdim=True) * axis

    hips = bones[..., list(_HIPS), :].mean(-2)
    turned = (swing @ hips[..., None])[..., 0]
    return _released_swing(across(turned), across(wanted[..., list(_HIPS), :].mean(-2))) @ swing


def _released_swing(start: Float[Tensor, "*#n 3"], end: Float[Tensor, "*#n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Smallest rotation between two directions as released: degenerate at 180 degrees."""
    start, end = torch.broadcast_tensors(start, end)
    across = torch.linalg.cross(start, end, dim=-1)
    sine_area, area = _length(across), _length(start) * _length(end) + _SHORT
    pair = torch.cat(((start * end).sum(-1, keepdim=True), sine_area), dim=-1) / area
    return _rotation_about(across / (sine_area + _SHORT), pair)

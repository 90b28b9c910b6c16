"""Damped Gauss-Newton steps from the rotations of `swing_twist` towards the points they were solved from.

The swing-twist solver reads each rotation from one bone; where points carry errors, all points together say
more. A step is a linear least-squares problem of 72 unknowns whose matrix has the structure of the skeleton.
It is solved from the tips to the root and back, as the dynamics of articulated bodies are (Featherstone
1983): twice as fast as the dense equations, and with a hundredth of their rounding error in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.body.ik import IK_PARENTS, NUM_JOINTS, TREE_LEVELS, bones_of, forward_kinematics
from fasthmr.body.swing_twist import cross_matrix
from fasthmr.geometry.rotations import axis_angle_to_rotmat


def refine_rotations(
    rotmats: Float[Tensor, "*#batch 24 3 3"],
    joints: Float[Tensor, "*#batch 29 3"],
    rest: Float[Tensor, "*#batch 29 3"],
    *,
    steps: int = 2,
    sigma: float = 0.01,
    weights: Float[Tensor, "29"] | None = None,
) -> Float[Tensor, "*batch 24 3 3"]:
    """Rotations whose points lie closer to those given, changed as little as that takes.

    Each step minimises sum_j w_j |P_j(R exp(d)) - J_j|² + 4 sigma² |d|² over all rotations at once, with P
    linear in d. What no point shows (the twist of a hand) does not change. Differentiable by unrolling.

    Args:
        rotmats: Where to start.
        joints: The points; any origin, metres.
        rest: Rest points of the body.
        steps: 0 returns the start.
        sigma: Expected error of the points in metres; larger values keep closer to the start.
        weights: Of each point, 1 for all by default.

    Raises:
        ValueError: `sigma` is not positive; without it the twist of the tips is free.
    """
    if not sigma > 0:
        raise ValueError(f"refine_rotations: sigma={sigma} must be positive")
    targets = joints - joints[..., :1, :] + rest[..., :1, :]
    weight = targets.new_ones(len(IK_PARENTS)) if weights is None else weights
    for _ in range(steps):
        points, world = forward_kinematics(rotmats, rest)
        turns = _least_squares_turns(points, targets - points, weight, 4 * sigma**2)
        rotmats = rotmats @ axis_angle_to_rotmat((world.mT @ turns[..., None])[..., 0])
    return rotmats


class _Cost(NamedTuple):
    """aᵀ A a + 2 aᵀ B v + vᵀ C v - 2 aᵀ f - 2 vᵀ g: a joint's frame turns by a, its point moves by v."""

    A: Float[Tensor, "*n 3 3"]
    B: Float[Tensor, "*n 3 3"]
    C: Float[Tensor, "*n 3 3"]
    f: Float[Tensor, "*n 3 1"]
    g: Float[Tensor, "*n 3 1"]

    def of(self, joints: slice) -> _Cost:
        return _Cost(*(part[..., joints, :, :] for part in self))

    def plus(self, places: Sequence[int], other: _Cost) -> _Cost:
        """With other costs added to those of the joints at these places, which may repeat."""
        index = torch.tensor(places, device=self.A.device)
        return _Cost(*(own.index_add(-3, index, more) for own, more in zip(self, other, strict=True)))

    def of_parent(self, lever: Float[Tensor, "*n 3 3"]) -> _Cost:
        """As a function of the parent's frame: v = v_parent - [lever]x a_parent."""
        B = self.B + lever @ self.C
        A = self.A - B @ lever + lever @ self.B.mT
        return _Cost(A, B, self.C, self.f + lever @ self.g, self.g)


def _least_squares_turns(
    points: Float[Tensor, "*batch 29 3"],
    error: Float[Tensor, "*#batch 29 3"],
    weight: Float[Tensor, "29"],
    damping: float,
) -> Float[Tensor, "*batch 24 3"]:
    """Small rotation of each joint against its parent, in the root's frame, that best removes the errors.

    From the tips to the root, a joint's own rotation w is minimised out of what lies beyond it: with
    a = a_parent + w the optimum is w = -D⁻¹ (A a_parent + B v - f), D = A + damping.
    """
    eye = torch.eye(3, dtype=points.dtype, device=points.device)
    levers = cross_matrix(bones_of(points))
    stiff = (weight[:, None, None] * eye).expand(*points.shape, 3)
    none = torch.zeros_like(stiff)
    all_costs = _Cost(none, none, stiff, none[..., :1], (weight[:, None] * error)[..., None])
    leaves = slice(NUM_JOINTS, None)
    tips = all_costs.of(leaves).of_parent(levers[..., leaves, :, :])
    costs = all_costs.of(slice(NUM_JOINTS)).plus(IK_PARENTS[leaves], tips)

    solved: list[tuple[Tensor, Tensor, Tensor]] = []
    beyond: tuple[list[int], _Cost] | None = None
    for joints, parents in ((slice(1), [0]), *TREE_LEVELS)[::-1]:
        cost = costs.of(joints) if beyond is None else costs.of(joints).plus(*beyond)
        inverse = _inverse(cost.A + damping * eye)
        X, Y, z = inverse @ cost.A, inverse @ cost.B, inverse @ cost.f
        solved.append((X, Y, z))
        # A - A D⁻¹ A = damping D⁻¹ A and so on: nothing cancels
        C, g = cost.C - cost.B.mT @ Y, cost.g - cost.B.mT @ z
        left = _Cost(damping * X, damping * Y, C, damping * z, g)
        beyond = parents, left.of_parent(levers[..., joints, :, :])

    turn = solved.pop()[2]
    turns, turned, moved = [turn], turn, torch.zeros_like(turn)
    for joints, parents in TREE_LEVELS:
        turned = turned[..., parents, :, :]
        moved = moved[..., parents, :, :] - levers[..., joints, :, :] @ turned
        X, Y, z = solved.pop()
        turn = z - X @ turned - Y @ moved
        turned = turned + turn
        turns.append(turn)
    return torch.cat(turns, dim=-3)[..., 0]


def _inverse(matrix: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Of a positive definite matrix, through its cofactors: LAPACK is slow on many small ones."""
    cofactors = torch.linalg.cross(matrix[..., [1, 2, 0], :], matrix[..., [2, 0, 1], :], dim=-1)
    determinant = (matrix[..., :1, :] * cofactors[..., :1, :]).sum(-1, keepdim=True)
    return cofactors.mT / determinant

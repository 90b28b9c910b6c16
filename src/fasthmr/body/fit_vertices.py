"""Pose, shape and place of a body from its posed vertices, for models that place vertices and nothing else.

Linear blend skinning is linear in the rotations R of the joints in the world: a vertex i is at
t + sum_k R_k b_ik, where each joint turns the vertices that hang on it and, for all vertices below them, the
bones to its children. That makes Gauss-Newton over all rotations, the shape and the place short and quick.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.body.lbs import BodyModel
from fasthmr.body.swing_twist import cross_matrix
from fasthmr.geometry.alignment import similarity_transform
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams

_MOST_VERTICES = 700
_STEPS = 4
_LEAST_IN_PART = 4  # vertices, to say how a part is turned
_DAMPING = 1e-5  # of turns, against those that no vertex shows
_SHAPE_PRIOR = 2.5e-5  # square metres per squared standard deviation
_SHAPE_LIMIT = 5.0  # standard deviations


class VertexFit:
    """Fits a body, or a hand, to all its vertices (least squares); some of them are looked at."""

    def __init__(self, body: BodyModel) -> None:
        stride = -(-body.num_vertices // _MOST_VERTICES)
        self._picked: Int[Tensor, " picked"] = torch.arange(
            0, body.num_vertices, stride, device=body.faces.device
        )
        self._few = body.restrict(self._picked).double()
        self._parents: list[int] = body.parents.tolist()
        weights = self._few.lbs_weights
        # How much of a vertex hangs on a joint or on those below it.
        self._hanging = weights.clone()
        for joint in range(len(self._parents) - 1, 0, -1):
            self._hanging[:, self._parents[joint]] += self._hanging[:, joint]
        self._part = weights.argmax(1)
        few = self._few
        self._shape_bones = self._bones(few.shapedirs.permute(2, 0, 1), few.J_shapedirs.permute(2, 0, 1))

    def __call__(self, vertices: Float[Tensor, "batch vertices 3"]) -> BodyParams:
        """Parameters with `transl`, in the number type of the vertices."""
        few = self._few
        target = vertices[:, self._picked].double()
        world = self._turned_parts(target)
        betas = target.new_zeros(len(target), few.num_betas)
        place = target.new_zeros(len(target), 3)
        for _ in range(_STEPS):
            world, betas, place = self._step(target, world, betas)
        dtype = vertices.dtype
        return BodyParams(
            global_orient=world[:, :1].to(dtype),
            body_pose=self._relative(world).to(dtype),
            betas=betas.to(dtype),
            transl=(place - few.J_template[0] - betas @ few.J_shapedirs[0].mT).to(dtype),
        )

    def _step(
        self,
        target: Float[Tensor, "batch picked 3"],
        world: Float[Tensor, "batch joints 3 3"],
        betas: Float[Tensor, "batch num_betas"],
    ) -> tuple[Float[Tensor, "batch joints 3 3"], Float[Tensor, "batch num_betas"], Float[Tensor, "batch 3"]]:
        """One Gauss-Newton step; the place of the root is found anew each time."""
        few, batch = self._few, len(target)
        surface = few.v_template + (few.shapedirs @ betas[:, None, :, None])[..., 0]
        joints = few.J_template + (few.J_shapedirs @ betas[:, None, :, None])[..., 0]
        if few.posedirs is not None:
            feature = (self._relative(world) - torch.eye(3).to(world)).flatten(1)
            surface = surface + (feature @ few.posedirs).unflatten(1, (-1, 3))
        arms = torch.einsum("njab,npjb->npja", world, self._bones(surface, joints))
        along = torch.einsum("njab,spjb->npas", world, self._shape_bones)
        missed = target - arms.sum(2)
        # Columns: turns of all joints, shape, place.
        turns = -cross_matrix(arms).transpose(2, 3).flatten(3)
        place = torch.eye(3).to(target).expand(batch, target.shape[1], 3, 3)
        rows = torch.cat([turns, along, place], dim=-1).flatten(1, 2)
        gram = rows.mT @ rows
        right = (rows.mT @ missed.flatten(1)[..., None])[..., 0]
        count = turns.shape[-1]
        weight = torch.zeros(gram.shape[-1]).to(target)
        weight[:count], weight[count : count + few.num_betas] = _DAMPING, _SHAPE_PRIOR
        right[:, count : count + few.num_betas] -= _SHAPE_PRIOR * betas  # of the shape, not of its step
        solved = torch.linalg.solve(gram + weight.diag(), right)
        turn, shape, shift = solved.split([count, few.num_betas, 3], dim=1)
        turn = turn.unflatten(1, (-1, 3))
        turn = turn / torch.linalg.vector_norm(turn, dim=-1, keepdim=True).clamp(min=1.0)  # radians
        betas = (betas + shape).clamp(-_SHAPE_LIMIT, _SHAPE_LIMIT)
        return axis_angle_to_rotmat(turn) @ world, betas, shift

    def _turned_parts(self, target: Float[Tensor, "batch picked 3"]) -> Float[Tensor, "batch joints 3 3"]:
        """To begin with: each joint turned as the vertices that follow it most, or as its parent."""
        world: list[Tensor] = []
        for joint, parent in enumerate(self._parents):
            own = self._part == joint
            if int(own.sum()) >= _LEAST_IN_PART:
                rest = self._few.v_template[own].expand(len(target), -1, -1)
                world.append(similarity_transform(rest, target[:, own])[1])
            elif parent >= 0:
                world.append(world[parent])
            else:
                world.append(torch.eye(3).to(target).expand(len(target), 3, 3))
        return torch.stack(world, dim=1)

    def _bones(
        self, surface: Float[Tensor, "batch picked 3"], joints: Float[Tensor, "batch joints 3"]
    ) -> Float[Tensor, "batch picked joints 3"]:
        """What each joint turns of each vertex; linear in surface and joints together."""
        arms = self._few.lbs_weights[..., None] * (surface[:, :, None] - joints[:, None])
        parents = torch.tensor(self._parents[1:], device=joints.device)
        ways = self._hanging[:, 1:, None] * (joints[:, 1:] - joints[:, parents])[:, None]
        return arms.index_add(2, parents, ways)

    def _relative(self, world: Float[Tensor, "batch joints 3 3"]) -> Float[Tensor, "batch joints_1 3 3"]:
        parents = torch.tensor(self._parents[1:], device=world.device)
        return world[:, parents].mT @ world[:, 1:]

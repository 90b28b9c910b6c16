"""The linear body of SMPL and its relatives as one module.

Rest shape, pose correctives and linear blend skinning follow SMPL (Loper et al. 2015, eq. 2-11).
Bodies (SMPL, SMPL-H, SMPL-X, the free default body) and hands (MANO, the free hand) differ in data only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fasthmr.body.skeletons import joint_names, tree_levels
from fasthmr.types import BodyMesh, BodyParams


def dense_lbs_weights(
    index: Int[Tensor, "vertices k"], weight: Float[Tensor, "vertices k"], num_joints: int
) -> Float[Tensor, "vertices {num_joints}"]:
    """Spread the k largest skinning weights of each vertex over all joints, rows summing to one.

    One dense product with (V, J) is faster than gathering k transforms per vertex, so this is the only
    form that the body keeps.
    """
    dense = weight.new_zeros(weight.shape[0], num_joints).scatter_add(1, index.long(), weight)
    return dense / dense.sum(-1, keepdim=True)


class BodyModel(nn.Module):
    """Shape and pose to vertices and joints, for any leading batch shape, in the dtype of its buffers.

    All data are buffers that stay out of `state_dict`: a body is not a weight, and a licensed one must not
    travel in a checkpoint.

    Args:
        v_template: Mean rest shape in metres.
        shapedirs: Vertex offset for one standard deviation of each shape coefficient.
        faces: Triangles, counter-clockwise seen from outside.
        parents: Parent of each joint, -1 for joint 0.
        lbs_weights: Skinning weights, rows sum to one (see `dense_lbs_weights` for the sparse form).
        posedirs: Corrective offsets, row-major per joint as in published checkpoints; None for none.
        J_regressor: Joints from rest vertices. Needed unless the exact form below is given.
        J_template: Joints of the mean rest shape.
        J_shapedirs: Joint offset of each shape coefficient.
        keypoint_regressor: Further points from posed vertices.
        keypoint_names: Their names.
        extras: Further arrays that belong to the body (texture coordinates, hand pose components, ...).
        name: What the body calls itself in result files.

    Raises:
        ValueError: Sizes disagree or the parents are no tree.
    """

    v_template: Float[Tensor, "vertices 3"]
    shapedirs: Float[Tensor, "vertices 3 num_betas"]
    posedirs: Float[Tensor, "pose_features vertices_3"] | None
    J_regressor: Float[Tensor, "joints vertices"] | None
    J_template: Float[Tensor, "joints 3"]
    J_shapedirs: Float[Tensor, "joints 3 num_betas"]
    lbs_weights: Float[Tensor, "vertices joints"]
    parents: Int[Tensor, "joints"]
    faces: Int[Tensor, "faces 3"]
    keypoint_regressor: Float[Tensor, "keypoints vertices"] | None
    _tree_order: Int[Tensor, "joints"]
    _tree_rank: Int[Tensor, "joints"]
    _parent_in_level: Int[Tensor, "joints"]

    def __init__(
        self,
        *,
        v_template: Float[Tensor, "vertices 3"],
        shapedirs: Float[Tensor, "vertices 3 num_betas"],
        faces: Int[Tensor, "faces 3"],
        parents: Sequence[int],
        lbs_weights: Float[Tensor, "vertices joints"],
        posedirs: Float[Tensor, "pose_features vertices_3"] | None = None,
        J_regressor: Float[Tensor, "joints vertices"] | None = None,
        J_template: Float[Tensor, "joints 3"] | None = None,
        J_shapedirs: Float[Tensor, "joints 3 num_betas"] | None = None,
        keypoint_regressor: Float[Tensor, "keypoints vertices"] | None = None,
        keypoint_names: Sequence[str] = (),
        extras: Mapping[str, Tensor] | None = None,
        name: str = "custom",
    ) -> None:
        super().__init__()
        num_joints = len(parents)
        levels = tree_levels(parents)
        if J_template is None or J_shapedirs is None:
            if J_regressor is None:
                raise ValueError("BodyModel: give J_regressor, or J_template with J_shapedirs")
            # Joints are linear in the shape, so regressing the template and the directions once is exact.
            J_template = J_regressor @ v_template
            J_shapedirs = torch.einsum("jv,vcb->jcb", J_regressor, shapedirs)
        num_keypoints = 0 if keypoint_regressor is None else keypoint_regressor.shape[0]
        expected = {
            "shapedirs": (shapedirs.shape[:2], v_template.shape),
            "lbs_weights": (lbs_weights.shape, (v_template.shape[0], num_joints)),
            "J_template": (J_template.shape, (num_joints, 3)),
            "J_shapedirs": (J_shapedirs.shape, (num_joints, 3, shapedirs.shape[2])),
            "keypoint_names": ((len(keypoint_names),), (num_keypoints,)),
        }
        if posedirs is not None:
            expected["posedirs"] = (posedirs.shape, (9 * (num_joints - 1), 3 * v_template.shape[0]))
        for key, (got, want) in expected.items():
            if tuple(got) != tuple(want):
                raise ValueError(
                    f"BodyModel: {key} has shape {tuple(got)}, the other parts need {tuple(want)}"
                )

        self.name = name
        self.joint_names = joint_names(num_joints)
        self.keypoint_names = tuple(keypoint_names)
        self._level_sizes = tuple(len(level) for level in levels)
        self._extra_keys = tuple(extras or ())
        order = [joint for level in levels for joint in level]
        rank = sorted(range(num_joints), key=order.__getitem__)
        parent_in_level = [0] + [
            above.index(parents[joint]) for above, level in pairwise(levels) for joint in level
        ]
        buffers = {
            "v_template": v_template,
            "shapedirs": shapedirs,
            "posedirs": posedirs,
            "J_regressor": J_regressor,
            "J_template": J_template,
            "J_shapedirs": J_shapedirs,
            "lbs_weights": lbs_weights,
            "parents": torch.tensor([int(parent) for parent in parents]),
            "faces": faces.long(),
            "keypoint_regressor": keypoint_regressor,
            "_tree_order": torch.tensor(order),
            "_tree_rank": torch.tensor(rank),
            "_parent_in_level": torch.tensor(parent_in_level),
            **{f"extra_{key}": value for key, value in (extras or {}).items()},
        }
        for key, value in buffers.items():
            self.register_buffer(key, value, persistent=False)

    @property
    def num_joints(self) -> int:
        return self.lbs_weights.shape[1]

    @property
    def num_vertices(self) -> int:
        return self.v_template.shape[0]

    @property
    def num_betas(self) -> int:
        return self.shapedirs.shape[2]

    @property
    def extras(self) -> dict[str, Tensor]:
        """Further arrays that came with the body, by their name in the file."""
        return {key: getattr(self, f"extra_{key}") for key in self._extra_keys}

    def rest_params(self, *batch: int) -> BodyParams:
        """Zero pose, mean shape and zero translation with leading shape `batch`."""
        eye = torch.eye(3, dtype=self.v_template.dtype, device=self.v_template.device)
        return BodyParams(
            global_orient=eye.expand(*batch, 1, 3, 3),
            body_pose=eye.expand(*batch, self.num_joints - 1, 3, 3),
            betas=self.v_template.new_zeros(*batch, self.num_betas),
            transl=self.v_template.new_zeros(*batch, 3),
        )

    def forward(self, params: BodyParams) -> BodyMesh:
        """Posed vertices and kinematic joints in metres."""
        vertices = self.v_template + self._along_betas(self.shapedirs, params.betas)
        if self.posedirs is not None:
            eye = torch.eye(3, dtype=params.body_pose.dtype, device=params.body_pose.device)
            feature = (params.body_pose - eye).flatten(-3)
            vertices = vertices + (feature @ self.posedirs).unflatten(-1, (-1, 3))
        transforms, joints = self.joint_transforms(params)
        transforms = transforms.flatten(-2)
        # Coordinates before vertices: long rows make the 3x4 products 1.5 times as fast on a CPU.
        skinning = (transforms.mT @ self.lbs_weights.mT).unflatten(-2, (3, 4))
        turned = (skinning[..., :3, :] * vertices.mT[..., None, :, :]).sum(-2)
        vertices = (turned + skinning[..., 3, :]).mT.contiguous()
        if params.transl is not None:
            vertices = vertices + params.transl[..., None, :]
            joints = joints + params.transl[..., None, :]
        return BodyMesh(vertices=vertices, joints=joints)

    def joint_transforms(
        self, params: BodyParams
    ) -> tuple[Float[Tensor, "*batch joints 3 4"], Float[Tensor, "*batch joints 3"]]:
        """What each joint does to rest points, [R | t], and where the joints are; `transl` is left out."""
        rest_joints = self._rest_joints(params.betas)
        joint_rotations, joints = self._kinematic_chain(params.rotmats, rest_joints)
        # Each joint moves a rest point x to R (x - rest) + joint = R x + offset.
        offsets = joints - (joint_rotations @ rest_joints[..., None])[..., 0]
        return torch.cat([joint_rotations, offsets[..., None]], dim=-1), joints

    def joints(self, params: BodyParams) -> Float[Tensor, "*batch joints 3"]:
        """Posed kinematic joints alone, without the cost of the vertices."""
        _, joints = self._kinematic_chain(params.rotmats, self._rest_joints(params.betas))
        return joints if params.transl is None else joints + params.transl[..., None, :]

    def world_rotations(self, params: BodyParams) -> Float[Tensor, "*batch joints 3 3"]:
        """Rotation of every joint frame in the frame of the body (joint to body)."""
        return self._kinematic_chain(params.rotmats, self._rest_joints(params.betas))[0]

    def keypoints(self, vertices: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch keypoints 3"]:
        """Regressed points of posed vertices, in the order of `keypoint_names`.

        Raises:
            ValueError: The body carries no keypoint regressor.
        """
        if self.keypoint_regressor is None:
            raise ValueError(f"body '{self.name}' has no keypoint regressor")
        return self.keypoint_regressor @ vertices

    def restrict(self, vertex_ids: Int[Tensor, "kept"]) -> BodyModel:
        """The same body with only these vertices (unique, in this order) and the faces between them.

        Joints stay exact. The regressors keep only the columns of these vertices.
        """
        lookup = torch.full((self.num_vertices,), -1, device=vertex_ids.device)
        lookup[vertex_ids] = torch.arange(len(vertex_ids), device=vertex_ids.device)
        faces = lookup[self.faces]
        posedirs, keypoint_regressor = self.posedirs, self.keypoint_regressor
        if posedirs is not None:
            posedirs = posedirs.unflatten(1, (-1, 3))[:, vertex_ids].flatten(1)
        return BodyModel(
            v_template=self.v_template[vertex_ids],
            shapedirs=self.shapedirs[vertex_ids],
            faces=faces[(faces >= 0).all(1)],
            parents=self.parents.tolist(),
            lbs_weights=self.lbs_weights[vertex_ids],
            posedirs=posedirs,
            J_template=self.J_template,
            J_shapedirs=self.J_shapedirs,
            keypoint_regressor=None if keypoint_regressor is None else keypoint_regressor[:, vertex_ids],
            keypoint_names=self.keypoint_names,
            name=self.name,
        )

    def _along_betas(
        self, directions: Float[Tensor, "points 3 num_betas"], betas: Float[Tensor, "*batch given_betas"]
    ) -> Float[Tensor, "*batch points 3"]:
        """Offsets for shape coefficients; directions beyond those given count as zero."""
        given = betas.shape[-1]
        if given > directions.shape[-1]:
            raise ValueError(f"betas has {given} coefficients, body '{self.name}' has {directions.shape[-1]}")
        return (betas @ directions[..., :given].flatten(0, 1).mT).unflatten(-1, (-1, 3))

    def _rest_joints(self, betas: Float[Tensor, "*batch given_betas"]) -> Float[Tensor, "*batch joints 3"]:
        return self.J_template + self._along_betas(self.J_shapedirs, betas)

    def _kinematic_chain(
        self, rotations: Float[Tensor, "*batch joints 3 3"], rest_joints: Float[Tensor, "*batch joints 3"]
    ) -> tuple[Float[Tensor, "*batch joints 3 3"], Float[Tensor, "*batch joints 3"]]:
        """World rotation and position of every joint; joints of equal depth are done together."""
        bones = rest_joints - rest_joints[..., self.parents.clamp(min=0), :]
        # [R | bone] of each joint relative to its parent, sorted by depth.
        local = torch.cat([rotations, bones[..., None]], dim=-1)[..., self._tree_order, :, :]
        level_rotations, level_joints = [rotations[..., :1, :, :]], [rest_joints[..., :1, :]]
        start = 1
        for size in self._level_sizes[1:]:
            parent = self._parent_in_level.narrow(0, start, size)
            moved = level_rotations[-1][..., parent, :, :] @ local.narrow(-3, start, size)
            level_joints.append(moved[..., 3] + level_joints[-1][..., parent, :])
            level_rotations.append(moved[..., :3])
            start += size
        world_rotations = torch.cat(level_rotations, dim=-3)[..., self._tree_rank, :, :]
        return world_rotations, torch.cat(level_joints, dim=-2)[..., self._tree_rank, :]

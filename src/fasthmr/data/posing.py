"""The default body as the picture engine needs it: posed joints, label points and bone transforms in NumPy.

Labels use the full skinning weights and so agree with `BodyModel`; drawn vertices use the four largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPL_PARENTS
from fasthmr.data.wardrobe import Piece, make_piece
from fasthmr.geometry.rotations import axis_angle_to_rotmat

BASE_EYEBALLS = (14598, 14742)
BASE_TONGUE = (13380, 13606)
"""Vertex ranges of the MakeHuman base mesh (`specs/free_body.md`)."""

_BASE_SIZE = 19158
_HEAD, _NECK = 15, 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Posed:
    """A posed body, or one per frame, in its own frame (y up, metres).

    Attributes:
        rotations: World rotation of the root, then rotations relative to the parents.
        matrices: Rest frame to posed frame per joint.
        joints: The 24 joints.
        keypoints: The points of the body's keypoint regressor.
        surface: Points on the skin that reach as far out as the body does in any direction.
        head_top: A point above the hair.
    """

    rotations: Float[np.ndarray, "*frames 24 3 3"]
    matrices: Float[np.ndarray, "*frames 24 3 4"]
    joints: Float[np.ndarray, "*frames 24 3"]
    keypoints: Float[np.ndarray, "*frames keypoints 3"]
    surface: Float[np.ndarray, "*frames surface 3"]
    head_top: Float[np.ndarray, "*frames 3"]

    def outline(self) -> Float[np.ndarray, "*frames n 3"]:
        """The points whose box is the body's."""
        return np.concatenate([self.surface, self.joints, self.head_top[..., None, :]], axis=-2)

    def at(self, frame: int) -> Posed:
        """The body of one frame."""
        return Posed(**{name: value[frame] for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticBody:
    """Arrays of the default body for drawing (`piece`) and labelling.

    Attributes:
        base_faces: Base-mesh vertices of each drawn face.
        surface_joint: Joint that moves each surface point most.
        keypoint_moments: Keypoints are linear in the joint transforms A_j and in (1, betas): keypoint k is
            sum_j A_j (M_kj0 + sum_b beta_b M_kjb), with M the weighted sums of homogeneous rest vertices.
    """

    piece: Piece
    base_faces: Int[np.ndarray, "faces 3"]
    eyeball_faces: np.ndarray
    J_template: Float[np.ndarray, "24 3"]
    J_shapedirs: Float[np.ndarray, "24 3 betas"]
    surface_template: Float[np.ndarray, "surface 3"]
    surface_shapedirs: Float[np.ndarray, "surface 3 betas"]
    surface_weights: Float[np.ndarray, "surface 24"]
    surface_joint: Int[np.ndarray, "surface"]
    keypoint_moments: Float[np.ndarray, "keypoints 24 4 betas_1"]

    @classmethod
    def from_model(cls, model: BodyModel, *, cell: float = 0.0) -> SyntheticBody:
        """Prepare a 24-joint body with texture coordinates and a keypoint regressor.

        Args:
            cell: Drawn vertices closer than this are merged (m); labels do not change.

        Raises:
            ValueError: The body lacks exact joints, keypoints or texture coordinates.
        """
        if model.J_template is None or model.keypoint_regressor is None or "uv" not in model.extras:
            raise ValueError(f"body '{model.name}' has no exact joints, keypoints or texture coordinates")
        array = {key: value.numpy() for key, value in model.extras.items()}
        template, shapedirs = model.v_template.numpy(), model.shapedirs.numpy()
        weights, faces = model.lbs_weights.numpy(), model.faces.numpy()
        base = array["base_vertex_index"]
        tongue = (base >= BASE_TONGUE[0]) & (base < BASE_TONGUE[1])
        keep = ~tongue[faces].any(axis=1)
        top = np.argsort(-weights, axis=1)[:, :4]
        four = np.take_along_axis(weights, top, axis=1)
        piece = make_piece(
            template=template,
            shapedirs=shapedirs,
            lbs_index=top,
            lbs_weight=four / four.sum(axis=1, keepdims=True),
            faces=faces[keep],
            faces_uv=array["faces_uv"][keep],
            uv=array["uv"],
            hides=np.zeros(0, dtype=np.int64),
            cell=cell,
        )
        surface = _outermost(template, weights)
        regressor = model.keypoint_regressor.numpy()
        homogeneous = np.concatenate([template, np.ones_like(template[:, :1])], axis=1)
        shape_part = np.concatenate([shapedirs, np.zeros_like(shapedirs[:, :1])], axis=1)
        linear = np.concatenate([homogeneous[..., None], shape_part], axis=-1).astype(np.float64)
        moments = np.stack(
            [
                np.einsum("v,vj,vab->jab", row[on], weights[on], linear[on])
                for row in regressor
                for on in [row != 0]
            ]
        )
        base_faces = base[faces[keep]][piece.source_faces]
        eyeball = (base_faces >= BASE_EYEBALLS[0]) & (base_faces < BASE_EYEBALLS[1])
        return cls(
            piece=piece,
            base_faces=base_faces,
            eyeball_faces=np.asarray(eyeball.all(axis=1)),
            J_template=model.J_template.numpy().astype(np.float64),
            J_shapedirs=model.J_shapedirs.numpy().astype(np.float64),
            surface_template=template[surface].astype(np.float64),
            surface_shapedirs=shapedirs[surface].astype(np.float64),
            surface_weights=weights[surface].astype(np.float64),
            surface_joint=weights[surface].argmax(axis=1),
            keypoint_moments=moments,
        )

    def visible_skin(self, hides: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Corners of the skin that no worn piece covers, and of the eyeballs.

        A face is hidden when any of its vertices is covered: the clothes stand off the skin, so the gap at
        their hem is not seen, while skin poking through would be.
        """
        covered = np.zeros(_BASE_SIZE, dtype=bool)
        for ids in hides:
            covered[ids] = True
        hidden = covered[self.base_faces].any(axis=1)
        faces = self.piece.indices.reshape(-1, 3)
        return (
            faces[~hidden & ~self.eyeball_faces].reshape(-1),
            faces[~hidden & self.eyeball_faces].reshape(-1),
        )

    def pose(self, betas: Float[np.ndarray, "betas"], axis_angle: Float[np.ndarray, "*frames 24 3"]) -> Posed:
        """Pose one body (linear blend skinning); the pelvis stays where the shape has it."""
        vectors = torch.from_numpy(np.ascontiguousarray(axis_angle))
        return self.pose_rotmats(betas, axis_angle_to_rotmat(vectors).numpy())

    def pose_rotmats(
        self, betas: Float[np.ndarray, "betas"], rotations: Float[np.ndarray, "*frames 24 3 3"]
    ) -> Posed:
        """As `pose`, from rotation matrices."""
        frames = rotations.shape[:-3]
        rest = self.J_template + self.J_shapedirs @ betas
        chain, joints = np.empty((*frames, 24, 3, 3)), np.empty((*frames, 24, 3))
        chain[..., 0, :, :], joints[..., 0, :] = rotations[..., 0, :, :], rest[0]
        for joint in range(1, 24):
            parent = SMPL_PARENTS[joint]
            turn = chain[..., parent, :, :]
            chain[..., joint, :, :] = turn @ rotations[..., joint, :, :]
            joints[..., joint, :] = joints[..., parent, :] + turn @ (rest[joint] - rest[parent])
        shift = joints - (chain @ rest[..., None])[..., 0]
        matrices = np.concatenate([chain, shift[..., None]], axis=-1)
        points = self.surface_template + self.surface_shapedirs @ betas
        homogeneous = np.concatenate([points, np.ones_like(points[:, :1])], axis=1)
        # Which multiple of which joint's matrix entries makes each point: one product for all frames.
        skinned = (self.surface_weights[..., None] * homogeneous[:, None]).reshape(len(points), -1)
        columns = matrices.swapaxes(-1, -2).reshape(*frames, 96, 3)
        moments = self.keypoint_moments[..., 0] + self.keypoint_moments[..., 1:] @ betas
        head, neck = joints[..., _HEAD, :], joints[..., _NECK, :]
        return Posed(
            rotations=rotations,
            matrices=matrices,
            joints=joints,
            keypoints=moments.reshape(len(moments), -1) @ columns,
            surface=skinned @ columns,
            head_top=head + 1.35 * (head - neck),
        )


def turned(posed: Posed, R: Float[np.ndarray, "*frames 3 3"], t: Float[np.ndarray, "*frames 3"]) -> Posed:
    """A posed body after the rigid motion x -> R x + t; the root rotation turns with it."""
    matrices = R[..., None, :, :] @ posed.matrices
    matrices[..., 3] += t[..., None, :]
    rotations = posed.rotations + np.zeros((*matrices.shape[:-3], 1, 1, 1))
    rotations[..., 0, :, :] = R @ rotations[..., 0, :, :]
    R_rows, t_rows = R.swapaxes(-1, -2), t[..., None, :]
    return Posed(
        rotations=rotations,
        matrices=matrices,
        joints=posed.joints @ R_rows + t_rows,
        keypoints=posed.keypoints @ R_rows + t_rows,
        surface=posed.surface @ R_rows + t_rows,
        head_top=(R @ posed.head_top[..., None])[..., 0] + t,
    )


def _outermost(template: np.ndarray, weights: np.ndarray) -> Int[np.ndarray, "surface"]:
    """Vertices that are extreme in one of 26 directions among those a joint moves most."""
    steps = np.array([-1.0, 0.0, 1.0])
    directions = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    strongest = weights.argmax(axis=1)
    chosen = []
    for joint in range(weights.shape[1]):
        own = np.flatnonzero(strongest == joint)
        if len(own):
            chosen.append(own[(template[own] @ directions.T).argmax(axis=0)])
    return np.unique(np.concatenate(chosen))

"""Models that place vertices and nothing else (METRO, FastMETRO, TORE), made models of meshes.

What they lack comes from files: the hierarchy of their mesh, the body or hand that the mesh belongs to, and
for METRO the body at rest. Pose and shape are then fitted to the vertices, so that results of these models
have everything that others have (`docs/design/027`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.fit_vertices import VertexFit
from fasthmr.body.hand_points import HAND_POINTS, hand_points, mean_hand_pose
from fasthmr.body.hierarchy import default_hierarchy
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import BODY_JOINTS_OF_17
from fasthmr.body.transfer import SHARED_JOINTS
from fasthmr.errors import UsageError
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.heads.metro import MetroHead
from fasthmr.io.body_files import load_body_file
from fasthmr.io.hierarchy_files import HierarchyFile, load_hierarchy_file
from fasthmr.models.mesh import MeshModel, mesh_operators, rest_template
from fasthmr.types import BodyParams, HMROutput

REGRESSED_JOINTS = 17
"""Rows of METRO's regressor, of which `body.skeletons.BODY_JOINTS_OF_17` are tokens."""

_HALF_TURN = 3.1416  # METRO's own value, that of the template its weights have seen


class FittedMesh(nn.Module):
    """A model of vertices as one of meshes: its vertices, with the pose, shape and place of a body.

    Args:
        model: With its mesh.
        body: That the vertices are of.
        root: Weights of the vertices that make the root; the first joint of the fit if not given.

    Attributes:
        fits_pose: Pose and shape are fitted to the vertices; otherwise the model reads them off its mesh.
    """

    takes_camera: ClassVar[bool] = False

    root: Tensor | None

    def __init__(
        self, model: MeshModel, body: BodyModel, root: Float[Tensor, "vertices"] | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("root", root, persistent=False)
        self.model = model
        self.crop_size, self.crop_aspect = model.crop_size, model.crop_aspect
        self.crop_antialias, self.crop_margin = model.crop_antialias, model.crop_margin
        self.fits_pose = getattr(model.head.config, "parameters", None) is None
        self._body, self._fit = body, VertexFit(body)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> HMROutput:
        """Estimate from normalised crops; `params.transl` is the place about the root of the vertices."""
        output = self.model(pixels)
        vertices = output.vertices[-1]
        params = self._fit(vertices) if output.params is None else self._placed(output.params, vertices)
        if self.model.config.about_root:
            root = self._body.joints(params)[:, 0] if self.root is None else self.root.to(vertices) @ vertices
            assert params.transl is not None
            vertices = vertices - root[:, None]
            params = replace(params, transl=params.transl - root)
        return HMROutput(params=params, camera=output.camera, vertices=vertices)

    def _placed(self, params: BodyParams, vertices: Float[Tensor, "batch vertices 3"]) -> BodyParams:
        """Parameters that the model gives, with their body where the vertices are."""
        return replace(params, transl=(vertices - self._body(params).vertices).mean(1))


@dataclass(frozen=True, kw_only=True)
class VertexModel:
    """A model of vertices that is ready, with the body that it means and the one to show."""

    model: FittedMesh
    params_body: BodyModel
    body: BodyModel


def with_body(
    model: MeshModel,
    name: str,
    *,
    body: str | Path | BodyModel | None,
    mesh: str | Path | None,
    device: torch.device,
) -> VertexModel:
    """A model of vertices with its mesh, its body and the user's.

    Args:
        body: Body or hand of the user: that of the model's mesh, or another one to put the pose onto.
        mesh: File of the hierarchy of the mesh, where the weights do not hold it.

    Raises:
        UsageError: Model, mesh and body do not go together, or one is missing; names both sides.
        InputError: A file is missing.
        UnsafeFileError: A file is damaged or unsafe.
    """
    given = body if body is None or isinstance(body, BodyModel) else load_body_file(body)
    own = find_mesh_body(model, name, given)
    file = give_mesh(model, name, own, mesh)
    regressor = own.J_regressor
    if file is not None and file.regressor is not None and len(file.regressor) == REGRESSED_JOINTS:
        regressor = file.regressor  # whose first row is the pelvis that losses have taken
    own = own.to(device)
    shown = own if given is None or given is own else given.to(device)
    fitted = FittedMesh(model.to(device), own, None if regressor is None else regressor[0]).to(device)
    return VertexModel(model=fitted.eval(), params_body=own, body=shown)


def is_hand_model(model: MeshModel) -> bool:
    """Whether a model reads hands."""
    return model.head.config.joints == HAND_POINTS


def find_mesh_body(model: MeshModel, name: str, given: BodyModel | None) -> BodyModel:
    """The body or hand whose mesh a model gives: that of the user, else the free one.

    Raises:
        UsageError: Neither has as many vertices; names both.
    """
    levels = model.head.config.mesh.vertices
    kind = "hand" if is_hand_model(model) else "body"
    free = load_default_hand() if kind == "hand" else load_default_body()
    if given is not None and given.num_vertices == levels[-1]:
        return given
    if free.num_vertices == levels[-1]:
        if given is not None and (kind == "hand" or given.num_joints < SHARED_JOINTS):
            raise UsageError(
                f"'{name}' gives the free {kind} of {levels[-1]} vertices, which cannot be put onto "
                f"'{given.name}' ({given.num_vertices} vertices, {given.num_joints} joints)"
            )
        return free
    other = free if given is None else given
    wanted = {"body": "SMPL's", "hand": "MANO's"}[kind]
    raise UsageError(
        f"'{name}' gives a mesh of {_chain(levels)} vertices and the {kind} '{other.name}' has "
        f"{other.num_vertices}; give the {kind} that the model was trained on (body=FILE, {wanted} perhaps)"
    )


def give_mesh(model: MeshModel, name: str, body: BodyModel, mesh: str | Path | None) -> HierarchyFile | None:
    """Give a model the mesh of its body, and METRO the body at rest; what was read, if that was needed.

    Args:
        mesh: File of a mesh hierarchy, published or imported. Needed where the weights do not hold the mesh
            and the body is not the free one.

    Raises:
        UsageError: The file is missing, or not of this body or model; names both.
        InputError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
    """
    if model.has_mesh:
        if mesh is not None:
            raise UsageError(f"'{name}' carries the mesh of its body itself; leave out mesh {mesh}")
        return None
    file = _hierarchy(model, name, body, mesh)
    levels = model.head.config.mesh.vertices
    if len(file.hierarchy.sizes) < len(levels):
        raise UsageError(
            f"{mesh or 'the free body'}: a hierarchy of {_chain(file.hierarchy.sizes[::-1])} vertices; "
            f"'{name}' needs {_chain(levels)}"
        )
    hierarchy = file.hierarchy.first(len(levels))
    hierarchy.check_body(body.num_vertices, body.name)
    template = None
    if isinstance(model.head, MetroHead):
        template = _template(model.head, name, body, replace(file, hierarchy=hierarchy), mesh)
    model.set_mesh(mesh_operators(hierarchy), template)
    return file


def _hierarchy(model: MeshModel, name: str, body: BodyModel, mesh: str | Path | None) -> HierarchyFile:
    if mesh is not None:
        return load_hierarchy_file(mesh)
    hand = is_hand_model(model)
    default = default_hierarchy("hand" if hand else "body")
    if default.sizes[0] == body.num_vertices:
        return HierarchyFile(hierarchy=default, regressor=None)
    raise UsageError(
        f"'{name}' needs the mesh hierarchy of its {'hand' if hand else 'body'} at "
        f"{_chain(model.head.config.mesh.vertices)} vertices, which published weights do not hold: "
        f"mesh=FILE, {'mano' if hand else 'mesh'}_downsampling.npz of METRO"
    )


def _template(
    head: MetroHead, name: str, body: BodyModel, file: HierarchyFile, mesh: str | Path | None
) -> Float[Tensor, "points 3"]:
    """Joints and coarse vertices at rest as METRO's reference code makes them."""
    rest = body.rest_params()
    if head.config.joints == HAND_POINTS:
        posed = body(replace(rest, body_pose=axis_angle_to_rotmat(mean_hand_pose(body))))
        joints, root = hand_points(body, posed.vertices, posed.joints), posed.joints[0]
    else:
        rows = 0 if file.regressor is None else len(file.regressor)
        if file.regressor is None or rows != REGRESSED_JOINTS:
            raise UsageError(
                f"'{name}' starts from METRO's Human3.6M regressor of {REGRESSED_JOINTS} joints, and "
                f"{mesh or 'the free body'} holds {f'one of {rows}' if rows else 'none'}: "
                "fasthmr import mesh_downsampling.npz --regressor J_regressor_h36m_correct.npy"
            )
        turned = axis_angle_to_rotmat(torch.tensor([[_HALF_TURN, 0.0, 0.0]])).to(rest.global_orient)
        posed = body(replace(rest, global_orient=turned))
        all_joints = file.regressor.to(posed.vertices) @ posed.vertices
        joints, root = all_joints[list(BODY_JOINTS_OF_17)], all_joints[0]
    coarse = file.hierarchy.downsample(posed.vertices)
    return rest_template(joints, coarse if head.regressor is None else coarse[:0], root)


def _chain(levels: tuple[int, ...]) -> str:
    return " < ".join(map(str, levels))

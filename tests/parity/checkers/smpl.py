"""SMPL skinning (`smpl.lbs`) and the 44 joints of HMR 2.0 (`smpl.joints44`)."""

from __future__ import annotations

import torch
from parity_lib import Case, checker
from torch import Tensor

from fasthmr.body.joints44 import Joints44, with_picked_vertices
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPL_PARENTS
from fasthmr.types import BodyMesh, BodyParams


def body_from_checkpoint(weights: dict[str, Tensor]) -> BodyModel:
    """A body from the keys that an SMPL module has in published checkpoints."""
    return BodyModel(
        v_template=weights["v_template"],
        shapedirs=weights["shapedirs"],
        faces=weights["faces_tensor"],
        parents=weights["parents"].tolist(),
        lbs_weights=weights["lbs_weights"],
        posedirs=weights.get("posedirs"),
        J_regressor=weights["J_regressor"],
    )


def posed(body: BodyModel, rotmats: Tensor, betas: Tensor, transl: Tensor | None = None) -> BodyMesh:
    """Mesh for rotation matrices of all joints, root first."""
    params = BodyParams(
        global_orient=rotmats[..., :1, :, :], body_pose=rotmats[..., 1:, :, :], betas=betas, transl=transl
    )
    return body(params)


@checker("smpl.lbs")
def lbs(case: Case) -> dict[str, tuple[Tensor, Tensor]]:
    """Rotation matrices in; vertices, and joints followed by the picked vertices, out."""
    tensors = case.tensors
    prefix = "weight/"
    weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    body = body_from_checkpoint(weights)
    mesh = posed(body, tensors["mid/rotmats"], tensors["input/betas"], tensors.get("input/transl"))
    joints = with_picked_vertices(mesh, weights["vertex_joint_selector.extra_joints_idxs"].tolist())
    return {
        "vertices": (mesh.vertices, tensors["output/vertices"]),
        "joints": (joints, tensors["output/joints"]),
    }


@checker("smpl.joints44")
def joints44(case: Case) -> dict[str, tuple[Tensor, Tensor]]:
    """The stand-in model of the case's recipe through the wrapper, with and without wider hips."""
    tensors = case.tensors
    model = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    betas, template = tensors["input/betas"], model["v_template"]
    vertices, joints = template.shape[0], tensors["input/rotmats"].shape[1]
    shapedirs = template.new_zeros(vertices, 3, betas.shape[1])
    for key, value in model.items():
        if key.startswith("shapedirs"):
            shapedirs[..., : value.shape[2]] = value
    lbs_weights = template.new_zeros(vertices, joints)
    lbs_weights.scatter_add_(1, model["lbs_idx0"][:, None], model["lbs_w0"][:, None])
    lbs_weights.scatter_add_(1, model["lbs_idx1"][:, None], 1 - model["lbs_w0"][:, None])
    body = BodyModel(
        v_template=template,
        shapedirs=shapedirs,
        faces=torch.zeros(0, 3, dtype=torch.int64),
        parents=SMPL_PARENTS,
        lbs_weights=lbs_weights,
        posedirs=torch.outer(model["posedirs_a"], model["posedirs_b"]),
        J_regressor=_rows(model["J_regressor_idx"], model["J_regressor_val"], vertices),
    )
    extra = _rows(model["J19_idx"], model["J19_val"], vertices)
    mesh = posed(body, tensors["input/rotmats"], betas)
    results = {"joints44": (Joints44(extra)(mesh), tensors["output/joints44"])}
    if "output/joints44_update_hips" in tensors:
        wide = Joints44(extra, update_hips=True)(mesh)
        results["joints44_update_hips"] = (wide, tensors["output/joints44_update_hips"])
    for key, value in tensors.items():
        if key.startswith("output/vertices_every"):
            step = int(key.removeprefix("output/vertices_every"))
            results[key.removeprefix("output/")] = (mesh.vertices[:, ::step], value)
    return results


def _rows(index: Tensor, value: Tensor, vertices: int) -> Tensor:
    """Sparse regressor rows as a matrix; an index given twice adds up."""
    return value.new_zeros(len(index), vertices).scatter_add(1, index, value)

"""Kinds `smpl.*`: linear blend skinning and the 44 joints of HMR 2.0."""

from __future__ import annotations

import torch
from parity_lib import Case, Result, checker
from torch import Tensor

from fasthmr.body.joints44 import Joints44, with_picked_vertices
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import SMPL_PARENTS
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


def _body(weights: dict[str, Tensor]) -> BodyModel:
    return BodyModel(
        v_template=weights["v_template"],
        shapedirs=weights["shapedirs"],
        faces=weights["faces_tensor"],
        parents=weights["parents"].tolist(),
        lbs_weights=weights["lbs_weights"],
        posedirs=weights["posedirs"],
        J_regressor=weights["J_regressor"],
    )


@checker("smpl.lbs")
def check_lbs(case: Case) -> Result:
    tensors = case.tensors
    body = _body(case.under("weight"))
    rotations = axis_angle_to_rotmat(tensors["input/axis_angle"].unflatten(-1, (-1, 3)))
    given = tensors.get("mid/rotmats", rotations)
    mesh = body(
        BodyParams(
            global_orient=given[:, :1],
            body_pose=given[:, 1:],
            betas=tensors["input/betas"],
            transl=tensors["input/transl"],
        )
    )
    picked = tuple(tensors["aux/vertex_ids"].tolist())
    return {"output/vertices": mesh.vertices, "output/joints": with_picked_vertices(mesh, picked)}


@checker("smpl.joints44")
def check_joints44(case: Case) -> Result:
    model, rotations = case.under("model"), case.tensors["input/rotmats"]
    vertices, joints = len(model["v_template"]), rotations.shape[1]
    betas = case.tensors["input/betas"]
    (first,) = (key for key in model if key.startswith("shapedirs_first"))
    shapedirs = torch.zeros(vertices, 3, betas.shape[1])
    shapedirs[..., : model[first].shape[-1]] = model[first]
    lbs_weights = torch.zeros(vertices, joints)
    for index, weight in ((model["lbs_idx0"], model["lbs_w0"]), (model["lbs_idx1"], 1 - model["lbs_w0"])):
        lbs_weights.index_put_((torch.arange(vertices), index), weight, accumulate=True)
    body = BodyModel(
        v_template=model["v_template"],
        shapedirs=shapedirs,
        faces=torch.zeros(0, 3, dtype=torch.long),
        parents=SMPL_PARENTS,
        lbs_weights=lbs_weights,
        posedirs=torch.outer(model["posedirs_a"], model["posedirs_b"]),
        J_regressor=_rows(model["J_regressor_idx"], model["J_regressor_val"], vertices),
    )
    extra = _rows(model["J19_idx"], model["J19_val"], vertices)
    mesh = body(BodyParams(global_orient=rotations[:, :1], body_pose=rotations[:, 1:], betas=betas))
    every = -(-vertices // case.tensors["output/vertices_every10"].shape[1])
    return {
        "output/joints44": Joints44(extra)(mesh),
        "output/joints44_update_hips": Joints44(extra, update_hips=True)(mesh),
        "output/vertices_every10": mesh.vertices[:, ::every],
    }


def _rows(index: Tensor, value: Tensor, columns: int) -> Tensor:
    """Dense regressor from the columns and values of each row; repeated columns add up."""
    return torch.zeros(len(index), columns).scatter_add(1, index, value)

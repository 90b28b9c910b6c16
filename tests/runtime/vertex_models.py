"""Small models of vertices, and networks that see the same person in every picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.hierarchy import default_hierarchy
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.heads.fastmetro import FastMetroHead, FastMetroHeadConfig
from fasthmr.models.mesh import MeshModel, MeshModelConfig, mesh_operators
from fasthmr.reduction.gtr import MLPRegressor, MLPRegressorConfig
from fasthmr.types import BodyParams

TRUNK = ResNetConfig(depths=(1, 1, 1, 1), width=1)
BODIES = {"body": load_default_body(), "hand": load_default_hand()}
SCALE = 0.9


def tiny(kind: str, *, stored: bool = True) -> MeshModelConfig:
    """FastMETRO with GTR in small."""
    mesh = mesh_operators(default_hierarchy(kind)).config(stored=stored)
    head = FastMetroHeadConfig(
        context_dim=32,
        joints=14 if kind == "body" else 21,
        mesh=mesh,
        layers=1,
        dims=(16, 8),
        mlp_dims=(12, 6),
        learned_levels=0,
    )
    return MeshModelConfig(encoder=TRUNK, head=head, regressor=MLPRegressorConfig(dim=8, hidden=6))


def posed(body: BodyModel) -> BodyParams:
    """Upright before the camera, with bent limbs."""
    turns = 0.3 * torch.randn(1, body.num_joints, 3, generator=torch.Generator().manual_seed(0))
    turns[:, 0] = torch.tensor([torch.pi, 0, 0])
    rotations = axis_angle_to_rotmat(turns)
    return BodyParams(
        global_orient=rotations[:, :1], body_pose=rotations[:, 1:], betas=torch.zeros(1, body.num_betas)
    )


def seeing(kind: str, *, stored: bool = True, with_mesh: bool = True) -> MeshModel:
    """A network that sees one pose in every picture, its root in the middle of the crop."""
    torch.manual_seed(0)
    model = tiny(kind, stored=stored).build().eval()
    assert isinstance(model.head, FastMetroHead) and isinstance(model.head.regressor, MLPRegressor)
    hierarchy, body = default_hierarchy(kind), BODIES[kind]
    mesh = body(posed(body))
    coarse = hierarchy.downsample(mesh.vertices[0] - mesh.joints[0, 0])
    for linear, bias in (
        (model.head.regressor.fc3, coarse.flatten()),
        (model.head.cam_predictor, torch.tensor([SCALE, 0.0, 0.0])),
    ):
        nn.init.zeros_(linear.weight)
        linear.bias.data = bias.clone()
    if with_mesh:
        model.set_mesh(mesh_operators(hierarchy))
    return model


def saved(model: MeshModel, path: Path) -> Path:
    save_weights(model, path, dtype=torch.float32, metadata={"config": config_to_json(model.config)})
    return path

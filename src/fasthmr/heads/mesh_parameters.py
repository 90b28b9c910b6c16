"""Pose and shape of a parametric body from the vertices of a coarse mesh: FastMETRO's optional regressor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.types import BodyParams


@dataclass(frozen=True, kw_only=True)
class MeshParametersConfig:
    """Sizes of a `MeshParameters`; the released ones by default."""

    hidden: int = 1024
    joints: int = 24
    num_betas: int = 10

    def build(self, vertices: int) -> MeshParameters:
        return MeshParameters(self, vertices)


class _Residual(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc_block = nn.Sequential(
            nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim), nn.BatchNorm1d(dim)
        )

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return torch.relu(x + self.fc_block(x))


class _First(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.fc_block = nn.Sequential(nn.Linear(dim_in, dim), nn.BatchNorm1d(dim), nn.ReLU())

    def forward(self, x: Float[Tensor, "batch dim_in"]) -> Float[Tensor, "batch dim"]:
        return self.fc_block(x)


class MeshParameters(nn.Module):
    """Vertices through two residual blocks to rotation matrices and shape."""

    def __init__(self, config: MeshParametersConfig, vertices: int) -> None:
        super().__init__()
        self.config = config
        self.regressor = nn.Sequential(
            _First(3 * vertices, config.hidden),
            _Residual(config.hidden),
            _Residual(config.hidden),
            nn.Linear(config.hidden, 9 * config.joints + config.num_betas),
        )

    def forward(self, vertices: Float[Tensor, "batch vertices 3"]) -> BodyParams:
        """Pose and shape; the matrices are the nearest rotations."""
        numbers = self.regressor(vertices.flatten(1))
        raw, betas = numbers.split([9 * self.config.joints, self.config.num_betas], dim=-1)
        rotations = nearest_rotations(raw.unflatten(-1, (self.config.joints, 3, 3)))
        return BodyParams(global_orient=rotations[:, :1], body_pose=rotations[:, 1:], betas=betas)


def nearest_rotations(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """U Vᵀ of the singular values, times its determinant so that mirrors become rotations (as released)."""
    u, _, vh = torch.linalg.svd(matrices.float())
    rotations = u @ vh
    return (rotations * torch.linalg.det(rotations)[..., None, None]).to(matrices.dtype)

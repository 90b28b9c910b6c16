"""The SMPL head of HMR 2.0 (arXiv 2305.20091): a transformer decoder with one query token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.geometry.rotations import rot6d_to_rotmat
from fasthmr.layers.context_decoder import ContextDecoder
from fasthmr.types import BodyParams, HMROutput

ROT6D_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class SMPLHeadConfig:
    """Sizes of an `SMPLHead`. The defaults are HMR 2.0's; `context_dim` follows the encoder.

    Attributes:
        context_dim: Channels of the feature map that is read.
        joints: Rotations to predict, the root first.
        token_input: What the query token starts from: nothing, or the current estimate.
        iterations: Refinements; the weights are shared.
    """

    context_dim: int
    dim: int = 1024
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 1024
    joints: int = 24
    num_betas: int = 10
    token_input: Literal["zero", "mean_shape"] = "zero"
    iterations: int = 1
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if min(self.depth, self.iterations) < 1:
            raise ValueError("SMPLHeadConfig: depth and iterations are at least 1")

    def build(self) -> SMPLHead:
        return SMPLHead(self)


class SMPLHead(nn.Module):
    """Feature map or tokens to rotations, shape and crop camera.

    The buffers hold the mean estimate to which the readouts are added; rotations are 6D in column layout.
    """

    init_body_pose: Float[Tensor, "1 pose6d"]
    init_betas: Float[Tensor, "1 num_betas"]
    init_cam: Float[Tensor, "1 3"]

    def __init__(self, config: SMPLHeadConfig) -> None:
        super().__init__()
        self.config = config
        pose_dim = 6 * config.joints
        self.decoder = ContextDecoder(
            token_dim=1 if config.token_input == "zero" else pose_dim + config.num_betas + 3,
            dim=config.dim,
            depth=config.depth,
            heads=config.heads,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            context_dim=config.context_dim,
            norm_eps=config.norm_eps,
        )
        self.decpose = nn.Linear(config.dim, pose_dim)
        self.decshape = nn.Linear(config.dim, config.num_betas)
        self.deccam = nn.Linear(config.dim, 3)
        self.register_buffer("init_body_pose", torch.tensor(ROT6D_IDENTITY).repeat(config.joints)[None])
        self.register_buffer("init_betas", torch.zeros(1, config.num_betas))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))

    def forward(self, features: Float[Tensor, "batch context_dim rows columns"]) -> HMROutput:
        """Estimate from the whole map."""
        return self.from_tokens(features.flatten(2).mT)

    def from_tokens(self, context: Float[Tensor, "batch tokens context_dim"]) -> HMROutput:
        """Estimate from any number of tokens in any order: the head knows no positions."""
        return self.refine(context)[-1]

    def refine(self, context: Float[Tensor, "batch tokens context_dim"]) -> list[HMROutput]:
        """The estimate after every iteration."""
        estimate = (self.init_body_pose, self.init_betas, self.init_cam)
        outputs = []
        for _ in range(self.config.iterations):
            token = None if self.config.token_input == "zero" else torch.cat(estimate, dim=-1)
            read = self.decoder(context, token)
            steps = (self.decpose(read), self.decshape(read), self.deccam(read))
            estimate = tuple(old + step for old, step in zip(estimate, steps, strict=True))
            outputs.append(self._output(*estimate))
        return outputs

    def _output(
        self,
        pose6d: Float[Tensor, "batch pose6d"],
        betas: Float[Tensor, "batch num_betas"],
        camera: Float[Tensor, "batch 3"],
    ) -> HMROutput:
        dtype = torch.promote_types(pose6d.dtype, torch.float32)  # half precision is too coarse from here on
        rotmats = rot6d_to_rotmat(pose6d.to(dtype).unflatten(-1, (self.config.joints, 6)), layout="columns")
        params = BodyParams(global_orient=rotmats[:, :1], body_pose=rotmats[:, 1:], betas=betas.to(dtype))
        return HMROutput(params=params, camera=camera.to(dtype))

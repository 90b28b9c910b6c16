"""SMPL heads around a transformer decoder with one query token: HMR 2.0 (arXiv 2305.20091) and CameraHMR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.geometry.rotations import rot6d_to_rotmat
from fasthmr.layers.context_decoder import ContextDecoderConfig
from fasthmr.types import BodyParams, HMROutput

ROT6D_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

TokenInput = Literal["zero", "mean_shape", "camera", "bbox"]

_BBOX_INFO = 3


@dataclass(frozen=True, kw_only=True)
class SMPLHeadConfig(ContextDecoderConfig):
    """Sizes of an `SMPLHead`. The defaults are HMR 2.0's; `context_dim` follows the encoder.

    Attributes:
        joints: Rotations to predict, the root first.
        token_input: What the query token starts from: nothing, the current estimate, where the crop lies in
            its camera (`geometry.cameras.bbox_info`) followed by the current estimate, or the former alone.
        aux_keypoints: 2D points to read out beside the pose.
        iterations: Refinements; the weights are shared.
    """

    joints: int = 24
    num_betas: int = 10
    token_input: TokenInput = "zero"
    aux_keypoints: int = 0
    iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"{type(self).__name__}: iterations is at least 1")

    @property
    def takes_camera(self) -> bool:
        """Whether the head needs `bbox_info`."""
        return self.token_input in ("camera", "bbox")

    @property
    def token_dim(self) -> int:
        """Numbers that the query token is made from."""
        estimate = 6 * self.joints + self.num_betas + 3
        sizes = {"zero": 1, "mean_shape": estimate, "camera": _BBOX_INFO + estimate, "bbox": _BBOX_INFO}
        return sizes[self.token_input]

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
        self.decoder = config.decoder(config.token_dim)
        self.decpose = nn.Linear(config.dim, pose_dim)
        self.decshape = nn.Linear(config.dim, config.num_betas)
        self.deccam = nn.Linear(config.dim, 3)
        self.deckp = nn.Linear(config.dim, 2 * config.aux_keypoints) if config.aux_keypoints else None
        self.register_buffer("init_body_pose", torch.tensor(ROT6D_IDENTITY).repeat(config.joints)[None])
        self.register_buffer("init_betas", torch.zeros(1, config.num_betas))
        self.register_buffer("init_cam", torch.tensor([[0.9, 0.0, 0.0]]))

    def forward(
        self,
        features: Float[Tensor, "batch context_dim rows columns"],
        bbox_info: Float[Tensor, "batch 3"] | None = None,
    ) -> HMROutput:
        """Estimate from the whole map.

        Args:
            bbox_info: Where each crop lies in its camera; needed if and only if `config.takes_camera`.

        Raises:
            ValueError: `bbox_info` is missing, or the head has no use for it.
        """
        return self.from_tokens(features.flatten(2).mT, bbox_info)

    def from_tokens(
        self,
        context: Float[Tensor, "batch tokens context_dim"],
        bbox_info: Float[Tensor, "batch 3"] | None = None,
    ) -> HMROutput:
        """Estimate from any number of tokens in any order: the head knows no positions."""
        return self.refine(context, bbox_info)[-1]

    def refine(
        self,
        context: Float[Tensor, "batch tokens context_dim"],
        bbox_info: Float[Tensor, "batch 3"] | None = None,
    ) -> list[HMROutput]:
        """The estimate after every iteration."""
        if (bbox_info is not None) != self.config.takes_camera:
            needs = "needs" if self.config.takes_camera else "has no use for"
            raise ValueError(f"a head with token_input={self.config.token_input!r} {needs} bbox_info")
        estimate = (self.init_body_pose, self.init_betas, self.init_cam)
        outputs = []
        for _ in range(self.config.iterations):
            read = self.decoder(context, self._token(estimate, bbox_info))
            steps = (self.decpose(read), self.decshape(read), self.deccam(read))
            estimate = tuple(old + step for old, step in zip(estimate, steps, strict=True))
            outputs.append(self._output(read, *estimate))
        return outputs

    def _token(
        self, estimate: tuple[Tensor, ...], bbox_info: Float[Tensor, "batch 3"] | None
    ) -> Float[Tensor, "batch_or_1 token_dim"] | None:
        if bbox_info is None:
            return None if self.config.token_input == "zero" else torch.cat(estimate, dim=-1)
        bbox_info = bbox_info.to(self.init_cam.dtype)
        if self.config.token_input == "bbox":
            return bbox_info
        return torch.cat([bbox_info, *(part.expand(bbox_info.shape[0], -1) for part in estimate)], dim=-1)

    def _output(
        self,
        read: Float[Tensor, "batch dim"],
        pose6d: Float[Tensor, "batch pose6d"],
        betas: Float[Tensor, "batch num_betas"],
        camera: Float[Tensor, "batch 3"],
    ) -> HMROutput:
        dtype = torch.promote_types(pose6d.dtype, torch.float32)  # half precision is too coarse from here on
        rotmats = rot6d_to_rotmat(pose6d.to(dtype).unflatten(-1, (self.config.joints, 6)), layout="columns")
        points = None if self.deckp is None else self.deckp(read).to(dtype).unflatten(-1, (-1, 2))
        return HMROutput(
            params=BodyParams(global_orient=rotmats[:, :1], body_pose=rotmats[:, 1:], betas=betas.to(dtype)),
            camera=camera.to(dtype),
            aux_keypoints_2d=points,
            features=read,
        )

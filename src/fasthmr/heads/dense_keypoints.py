"""Dense keypoints of CameraHMR (arXiv 2411.08128): points of the body's surface in 2D, with uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.context_decoder import ContextDecoderConfig
from fasthmr.types import DenseKeypoints


@dataclass(frozen=True, kw_only=True)
class DenseKeypointsHeadConfig(ContextDecoderConfig):
    """Sizes of a `DenseKeypointsHead`; the defaults are the published ones."""

    points: int = 138

    def build(self) -> DenseKeypointsHead:
        return DenseKeypointsHead(self)


class DenseKeypointsHead(nn.Module):
    """Feature map to surface points, through the decoder of HMR 2.0 with its zero token."""

    def __init__(self, config: DenseKeypointsHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = config.decoder(token_dim=1)
        self.dec_kp = nn.Linear(config.dim, 3 * config.points)

    def forward(self, features: Float[Tensor, "batch context_dim rows columns"]) -> DenseKeypoints:
        read = self.dec_kp(self.decoder(features.flatten(2).mT))
        points = read.to(torch.promote_types(read.dtype, torch.float32)).unflatten(-1, (-1, 3))
        return DenseKeypoints(xy=points[..., :2], log_sigma=points[..., 2])

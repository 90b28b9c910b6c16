"""HumanFoV, the network of CameraHMR (arXiv 2411.08128) that reads the field of view off a whole picture.

The published file holds two layers that are never called: `fc2`, and `final_layer` of the HRNet. They are
not built here, but counted: any module may have the attribute `unused_published_params`, the number of
parameters of its published file (its own, without those of its parts) that nothing calls and that it leaves
out. The parameters of a model plus this attribute of all its modules are what the published files hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fasthmr.encoders.hrnet import BRANCHES, HRNetConfig, halving
from fasthmr.geometry.cameras import fov_to_focal
from fasthmr.geometry.crops import normalize
from fasthmr.geometry.letterbox import letterbox

_KEYPOINTS = 24
"""Outputs of the HRNet's published `final_layer`."""


@dataclass(frozen=True, kw_only=True)
class HumanFoVConfig:
    """Sizes of a `HumanFoV`; the defaults are the published ones.

    Attributes:
        hidden: Width between the two linear layers.
    """

    backbone: HRNetConfig = field(default_factory=lambda: HRNetConfig(width=48))
    hidden: int = 1024

    def build(self) -> HumanFoV:
        return HumanFoV(self)


class HumanFoV(nn.Module):
    """HRNet, its four maps brought to stride 32 and averaged, and two linear layers with nothing in between.

    Attributes:
        image_size: Height and width of the letterboxed picture in pixels.
        unused_published_params: Parameters of `fc2` and `final_layer`, which are not built.
    """

    def __init__(self, config: HumanFoVConfig) -> None:
        super().__init__()
        self.config = config
        self.image_size = config.backbone.image_size
        self.backbone = config.backbone.build()
        widths = config.backbone.widths
        self.downsample = nn.ModuleList(
            nn.Sequential(*(layer for _ in range(BRANCHES - 1 - branch) for layer in halving(width, width)))
            for branch, width in enumerate(widths[:-1])
        )
        self.fc1 = nn.Linear(sum(widths), config.hidden)
        self.fc3 = nn.Linear(config.hidden, 2)
        self.unused_published_params = (config.hidden + 1) * config.hidden + (widths[0] + 1) * _KEYPOINTS

    def features(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels"]:
        """What the linear layers read, of letterboxed pictures that are normalised like crops."""
        *finer, coarsest = self.backbone(pictures)
        reduced = [shrink(x) for shrink, x in zip(self.downsample, finer, strict=True)]
        return torch.cat([x.mean((2, 3)) for x in (*reduced, coarsest)], dim=1)

    def forward(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2"]:
        """Two angles in radians for letterboxed pictures that are normalised like crops.

        The second is the vertical field of view of the picture before letterboxing; nothing uses the first.
        """
        return self.fc3(self.fc1(self.features(pictures)))

    @torch.no_grad()
    def estimate(self, rgb: UInt8[np.ndarray, "height width 3"]) -> float:
        """Focal length in pixels of the camera that took a picture."""
        square = torch.from_numpy(letterbox(rgb, self.image_size[0]))
        like = self.fc3.weight
        pixels = normalize(square.permute(2, 0, 1).to(like.device, torch.float32))
        fov = self(pixels[None].to(like.dtype))[0, 1].double()
        return float(fov_to_focal(fov, fov.new_tensor(rgb.shape[0])))

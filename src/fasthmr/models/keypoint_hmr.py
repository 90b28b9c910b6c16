"""The default preset's model: light encoder and keypoint-guided SMPL head on half-size crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig, KeypointSMPLOutput
from fasthmr.types import BodyParams, HMROutput, Keypoints2D


@dataclass(frozen=True, kw_only=True)
class KeypointHMRConfig:
    """Encoder and head of a `KeypointHMR`; both must agree on the channels of the maps."""

    encoder: ConvViTConfig
    head: KeypointSMPLConfig

    def __post_init__(self) -> None:
        given = (self.encoder.widths, self.encoder.token_stride)
        if given != (self.head.channels, self.head.token_stride):
            raise ValueError(
                f"KeypointHMRConfig: the encoder gives {given[0]} channels and tokens of stride {given[1]}, "
                f"the head reads {self.head.channels} and {self.head.token_stride}"
            )

    def build(self) -> KeypointHMR:
        return KeypointHMR(self)


class KeypointHMR(nn.Module):
    """Square crops to pose, shape, crop camera and 2D points.

    Attributes:
        crop_size: Side in pixels of the crops to feed: twice the height of the encoder's picture. Halving by
            averaging avoids the aliasing of a direct small crop.
        crop_aspect, crop_antialias, takes_camera: As for `models.hmr.CropModel`.
    """

    crop_aspect: ClassVar[tuple[int, int]] = (192, 256)
    crop_antialias: ClassVar[bool] = True
    takes_camera: ClassVar[bool] = False

    def __init__(self, config: KeypointHMRConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.head = config.head.build()
        height, width = config.encoder.image_size
        self.crop_size = 2 * height
        self.margin = height - width

    def estimate(self, picture: Float[Tensor, "batch 3 height width"]) -> KeypointSMPLOutput:
        """All readings from pictures of the encoder's size, as training needs them."""
        return self.head(self.encoder(picture))

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> HMROutput:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`).

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high.
        """
        if tuple(pixels.shape[-2:]) != (self.crop_size, self.crop_size):
            raise ValueError(
                f"this model takes crops of {self.crop_size} x {self.crop_size} pixels, "
                f"got {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        output = self.estimate(F.avg_pool2d(pixels[..., self.margin : self.crop_size - self.margin], 2))
        pose = output.pose
        return HMROutput(
            params=BodyParams(
                global_orient=pose.rotmats[:, :1], body_pose=pose.rotmats[:, 1:], betas=pose.betas
            ),
            camera=pose.camera,
            keypoints=Keypoints2D(xy=output.points.xy, score=output.points.score),
        )

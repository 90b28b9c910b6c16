"""The default preset's model: light encoder and keypoint-guided SMPL head on half-size crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig, KeypointSMPLOutput
from fasthmr.models.reduced import ReducedEncoderConfig
from fasthmr.types import BodyParams, HMROutput, Keypoints2D


@dataclass(frozen=True, kw_only=True)
class KeypointHMRConfig:
    """Encoder and head of a `KeypointHMR`; both must agree on the channels of the maps."""

    encoder: ConvViTConfig | ReducedEncoderConfig
    head: KeypointSMPLConfig

    def __post_init__(self) -> None:
        encoder = self.encoder.source if isinstance(self.encoder, ReducedEncoderConfig) else self.encoder
        if not isinstance(encoder, ConvViTConfig):
            raise ValueError("KeypointHMRConfig: the head reads three maps, the encoder gives one")
        given = (encoder.widths, encoder.token_stride)
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

    @property
    def takes_mask(self) -> bool:
        """As for `models.hmr.CropModel`."""
        return getattr(self.encoder, "takes_mask", False)

    def picture(self, pixels: Shaped[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 height width"]:
        """What the encoder sees of square crops.

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high.
        """
        if tuple(pixels.shape[-2:]) != (self.crop_size, self.crop_size):
            raise ValueError(
                f"this model takes crops of {self.crop_size} x {self.crop_size} pixels, "
                f"got {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        return F.avg_pool2d(pixels[..., self.margin : self.crop_size - self.margin], 2)

    def picture_mask(self, mask: Shaped[Tensor, "batch size size"]) -> Float[Tensor, "batch height width"]:
        """The same part of masks of square crops."""
        return F.max_pool2d(mask[..., self.margin : self.crop_size - self.margin].float(), 2)

    def estimate(
        self,
        picture: Float[Tensor, "batch 3 height width"],
        mask: Float[Tensor, "batch height width"] | None = None,
    ) -> KeypointSMPLOutput:
        """All readings from pictures (and masks) of the encoder's size, as training needs them."""
        return self.head(self.encoder(picture) if mask is None else self.encoder(picture, mask))

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 size size"],
        mask: Shaped[Tensor, "batch size size"] | None = None,
    ) -> HMROutput:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`).

        Args:
            mask: The person in the same crops, 0 to 1, for models with `takes_mask`.

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high, or the model takes no mask.
        """
        picture = self.picture(pixels)
        if mask is not None and not self.takes_mask:
            raise ValueError("this model merges no tokens around a person and takes no mask")
        output = self.estimate(picture, None if mask is None else self.picture_mask(mask))
        pose = output.pose
        return HMROutput(
            params=BodyParams.of_rotmats(pose.rotmats, pose.betas),
            camera=pose.camera,
            keypoints=Keypoints2D(xy=output.points.xy, score=output.points.score),
            features=_features(output),
        )


def _features(output: KeypointSMPLOutput) -> Float[Tensor, "batch width"] | None:
    """The token of the whole picture, then x, y, depth and score of each body point."""
    points, token = output.points, output.pose.token
    if token is None:
        return None
    read = torch.cat([points.xy, points.z[..., None], points.score[..., None]], dim=-1)
    return torch.cat([token.to(read.dtype), read.flatten(1)], dim=-1)

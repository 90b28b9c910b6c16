"""Mesh recovery from one crop: encoder and SMPL head, as in HMR 2.0 (arXiv 2305.20091)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import EncoderConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.types import HMROutput


@dataclass(frozen=True, kw_only=True)
class HMRConfig:
    """Encoder and head of an `HMR`."""

    encoder: EncoderConfig
    head: SMPLHeadConfig

    def __post_init__(self) -> None:
        height, width = self.encoder.image_size
        if width > height or (height - width) % 2:
            raise ValueError(
                f"HMRConfig: pictures of {height} x {width} (h x w) are not the middle of a square"
            )

    def build(self) -> HMR:
        return HMR(self)


class HMR(nn.Module):
    """Square crops to pose, shape and crop camera.

    Attributes:
        crop_size: Side in pixels of the crops to feed. The encoder sees their middle columns (192 of 256 in
            HMR 2.0); 2D outputs refer to the square.
    """

    def __init__(self, config: HMRConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.head = config.head.build()
        if self.encoder.channels[-1] != config.head.context_dim:
            raise ValueError(
                f"HMR: the encoder gives {self.encoder.channels[-1]} channels, "
                f"the head reads {config.head.context_dim}"
            )
        self.crop_size, width = config.encoder.image_size
        self.margin = (self.crop_size - width) // 2

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> HMROutput:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`).

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high.
        """
        if tuple(pixels.shape[-2:]) != (self.crop_size, self.crop_size):
            raise ValueError(
                f"this model takes crops of {self.crop_size} x {self.crop_size} pixels, "
                f"got {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        picture = pixels[..., self.margin : self.crop_size - self.margin]
        return self.head(self.encoder(picture)[-1])

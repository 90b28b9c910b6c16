"""Mesh recovery from one crop: encoder and SMPL head, as in HMR 2.0 (arXiv 2305.20091)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fasthmr.encoders.registry import EncoderConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.layers.context_decoder import ContextDecoderConfig
from fasthmr.types import HMROutput


@dataclass(frozen=True, kw_only=True)
class CropModelConfig:
    """An encoder for the middle columns of square crops."""

    encoder: EncoderConfig

    def __post_init__(self) -> None:
        height, width = self.encoder.image_size
        if width > height or (height - width) % 2:
            raise ValueError(
                f"{type(self).__name__}: "
                f"pictures of {height} x {width} (h x w) are not the middle of a square"
            )


class CropModel(nn.Module):
    """Square crops to the feature map that a head reads.

    Attributes:
        crop_size: Side in pixels of the crops to feed. The encoder sees their middle columns (192 of 256 in
            HMR 2.0); 2D outputs refer to the square.
        crop_aspect: Width and height that boxes are grown to before the square is taken.
        crop_antialias: Whether large boxes are blurred.
        takes_camera: Whether the model is called with `geometry.cameras.bbox_info` after the crops.
    """

    crop_aspect: ClassVar[tuple[int, int]] = (192, 256)
    crop_antialias: ClassVar[bool] = True
    takes_camera: ClassVar[bool] = False

    def __init__(self, config: CropModelConfig, head: ContextDecoderConfig) -> None:
        super().__init__()
        self.encoder = config.encoder.build()
        if self.encoder.channels[-1] != head.context_dim:
            raise ValueError(
                f"{type(self).__name__}: the encoder gives {self.encoder.channels[-1]} channels, "
                f"the head reads {head.context_dim}"
            )
        self.crop_size, width = config.encoder.image_size
        self.margin = (self.crop_size - width) // 2

    @property
    def takes_mask(self) -> bool:
        """Whether the model merges tokens around the person, and so has a use for `mask=`."""
        return getattr(self.encoder, "takes_mask", False)

    def features(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Shaped[Tensor, "batch height width"] | None = None,
    ) -> Float[Tensor, "batch context_dim rows columns"]:
        """The coarsest map of normalised crops (`geometry.crops.crop_pictures`).

        Args:
            mask: The person in the same crops, 0 to 1; see `models.reduced.ReducedEncoder`.

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high, or the model takes no mask.
        """
        picture = self.picture(pixels)
        if mask is None:
            return self.encoder(picture)[-1]
        if not self.takes_mask:
            raise ValueError("this model merges no tokens around a person and takes no mask")
        return self.encoder(picture, self.picture_mask(mask))[-1]

    def picture(self, pixels: Float[Tensor, "batch 3 rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """What the encoder sees of square crops.

        Raises:
            ValueError: The crops are not `crop_size` pixels wide and high.
        """
        if tuple(pixels.shape[-2:]) != (self.crop_size, self.crop_size):
            raise ValueError(
                f"this model takes crops of {self.crop_size} x {self.crop_size} pixels, "
                f"got {pixels.shape[-2]} x {pixels.shape[-1]}"
            )
        return pixels[..., self.margin : self.crop_size - self.margin]

    def picture_mask(self, mask: Shaped[Tensor, "batch size size"]) -> Shaped[Tensor, "batch height width"]:
        """The same part of masks of square crops."""
        return mask[..., self.margin : self.crop_size - self.margin]


@dataclass(frozen=True, kw_only=True)
class HMRConfig(CropModelConfig):
    """Encoder and head of an `HMR`."""

    head: SMPLHeadConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head.takes_camera:
            raise ValueError(
                f"HMRConfig: a head with token_input={self.head.token_input!r} needs the camera; "
                "use CameraHMRConfig"
            )

    def build(self) -> HMR:
        return HMR(self)


class HMR(CropModel):
    """Square crops to pose, shape and crop camera."""

    def __init__(self, config: HMRConfig) -> None:
        super().__init__(config, config.head)
        self.config = config
        self.head = config.head.build()

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        mask: Shaped[Tensor, "batch height width"] | None = None,
    ) -> HMROutput:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`).

        Args:
            mask: The person in the same crops, for models with `takes_mask`.
        """
        return self.head(self.features(pixels, mask))
